"""What the kernels share: softplus, the way from steps to positions, reading a tile of steps, and how names are formed.

The naming rule, for every Triton kernel of this package:

- ``u_ptr`` is a pointer, as passed or moved to the program's part, and ``u`` is the value that was loaded from it. For
  the steps of a tile there are tuples: ``u_ptrs``, and ``u`` again. Gradients are ``du_ptr`` and ``du``.
- ``u_b, u_k, u_g, u_d, u_n, u_l`` are the strides of ``u``, in elements, over batch elements, paths, groups, channels,
  states and steps (or positions).
- ``*_offset`` is added to a pointer: a number of elements, or a block of them; ``*_offsets`` is one for each step.
- ``CAPITALS`` are ``tl.constexpr``, known when the kernel is compiled; A, B, C and D are capitals as in the equations.
- ``b, k, g, s, d, n, t, p`` are batch element, path, group, segment, channels, state, step, position in raster order;
  ``j`` counts the steps of a tile. ``lanes`` masks the channels that exist, ``valid`` the steps, too.
- A comment gives the shape of what is loaded, stored or reshaped: ``# (BLOCK_D,)``, and ``# ()`` for a scalar.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# What varies from call to call, as L and the strides of projections do: no kernel is compiled anew because such a value
# is 1 or a multiple of 16.
VARYING = (
    *('num_steps', 'length', 'segment', 'segments', 'blocks', 'map_ids', 'reverse'),
    *(f'{name}_{axis}' for name in 'BCW' for axis in 'bkgl'),
)


@triton.jit
def softplus(x):
    """Return log(1 + exp(x)) to the last bits of float32 for any x.

    It is max(x, 0) + log(1 + e), where e = exp(-|x|), and log(1 + e) is e times a polynomial: of those of degree 8 that
    are 1 at 0, the one whose largest relative error on (0, 1] is least, 3.3e-8. Taking the logarithm of 1 + e would
    lose the bits of e below the last bit of 1: three digits of a step size of 1e-3.
    """
    e = tl.exp2(tl.abs(x) * -LOG2E)
    p = e * 0.005364826414734125 - 0.03006580099463463
    p = p * e + 0.07920455187559128
    p = p * e - 0.13753803074359894
    p = p * e + 0.1915365606546402
    p = p * e - 0.24857163429260254
    p = p * e + 0.3332132399082184
    p = p * e - 0.49999648332595825
    p = p * e + 1.0
    return p * e + tl.maximum(x, 0.0)


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)): 0 where the exponential overflows.

    It is the square of a reciprocal root: unlike a division, which processors build of several instructions, that is
    one, and to the last bits.
    """
    root = tl.rsqrt(1.0 + tl.exp2(x * -LOG2E))
    return root * root


@triton.jit
def gradient_of_gate(grad, y, z, open_by):
    """Return the gradient of z, given that of y * silu(z), and open_by = sigmoid(z)."""
    return grad * y * open_by * (1.0 + z * (1.0 - open_by))


@triton.jit
def unpack_path(k, map_ids, reverse, PATHS: tl.constexpr, MAP_BITS: tl.constexpr):
    """Return the number of path k's index map, counted from 1 (0: raster order), and whether it is walked backwards.

    ``map_ids`` holds MAP_BITS bits for each path, ``reverse`` one. A launch passes ``map_ids`` in 32 bits if its value
    fits, however many bits its paths have.
    """
    if PATHS * MAP_BITS > 31:
        map_ids = map_ids.to(tl.int64)
    map_id = (map_ids >> (MAP_BITS * k)) & ((1 << MAP_BITS) - 1)
    return map_id.to(tl.int32), (reverse >> k) & 1


@triton.jit
def position(t, end, path, FOLLOW: tl.constexpr):
    """Return the position that step t reads, or that of the last step, ``end`` - 1, for any step beyond it.

    It has 32 bits; see :func:`offset_of`.

    ``path`` is the number of the path's map, whether it is walked backwards, the pointer to all maps (or, without maps,
    any number: Triton 3.3 takes no None in a tuple), and their length.
    A step beyond the end thus reads memory that exists; its step size is 0, which leaves the state as it is.
    Without FOLLOW a tensor is not read along the path, and the position is the step itself. A padding step of a partial
    path is at -1: see :func:`without_padding`. ``end`` is None where no step can be beyond it.
    """
    map_id, backward, maps_ptr, num_steps = path
    if end is not None:
        t = tl.minimum(t, end - 1)
    if FOLLOW:
        p = tl.where(backward != 0, num_steps - 1 - t, t)
        if maps_ptr.dtype.is_ptr():
            mapped = tl.load(maps_ptr + (map_id - 1).to(tl.int64) * num_steps + p, mask=map_id > 0, other=0)  # as t
            p = tl.where(map_id > 0, mapped.to(tl.int32), p)
    else:
        p = t
    return p


@triton.jit
def is_before(t, end):
    """Return whether step t is before ``end``, which is None where every step is."""
    if end is None:
        return True
    else:
        return t < end


@triton.jit
def without_padding(mask, p, PADDED: tl.constexpr):
    """Return a mask of what is at position p: where steps may be padding, without those that are."""
    if PADDED:
        return mask & (p >= 0)
    else:
        return mask


@triton.jit
def read_positions(t0, end, path, STEPS: tl.constexpr):
    """Return the positions of STEPS steps from t0 on, as a tuple: each map is read once for all tensors of a step."""
    p = ()
    for j in tl.static_range(STEPS):
        p = p + (position(t0 + j, end, path, True),)
    return p


@triton.jit
def column_of(p, t, end, FOLLOW: tl.constexpr):
    """Return the column of a tensor at step t, which is at position p: without FOLLOW the step itself."""
    if FOLLOW:
        return p
    elif end is None:
        return t
    else:
        return tl.minimum(t, end - 1)


@triton.jit
def offset_of(p, stride, WIDE: tl.constexpr):
    """Return p * stride: only WIDE in 64 bits, for which a processor takes twice as many instructions."""
    if WIDE:
        return p.to(tl.int64) * stride
    else:
        return p * stride


@triton.jit
def read_tile(
    x_ptr,
    x_l,
    p,
    t0,
    end,
    lanes,
    FOLLOW: tl.constexpr,
    PARTIAL: tl.constexpr,
    WIDE: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Load STEPS steps from t0 on, as a tuple of (BLOCK_D,) in the dtype of the tensor; zeros at padding steps."""
    x = ()
    for j in tl.static_range(STEPS):
        mask = without_padding(lanes, p[j], PARTIAL and FOLLOW)  # (BLOCK_D,)
        offset = offset_of(column_of(p[j], t0 + j, end, FOLLOW), x_l, WIDE)
        x = x + (tl.load(x_ptr + offset, mask=mask, other=0.0),)  # (BLOCK_D,)
    return x


@triton.jit
def point_at(x_ptr, x_l, zeros_ptr, p, t, end, FOLLOW: tl.constexpr, WIDE: tl.constexpr):
    """Return a pointer to the states of B or C at step t, contiguous; of partial paths to zeros at a padding step.

    A mask would do as well, but would have to be at hand for each of the states.
    """
    x_ptr += offset_of(column_of(p, t, end, FOLLOW), x_l, WIDE)
    if zeros_ptr is not None and FOLLOW:
        x_ptr = tl.where(p >= 0, x_ptr, zeros_ptr)
    return x_ptr


@triton.jit
def load_or_zeros(x_ptr, lanes, BLOCK_D: tl.constexpr):
    """Load one number for each channel, (BLOCK_D,) float32, or return zeros if there is no pointer."""
    if x_ptr is None:
        return tl.zeros((BLOCK_D,), tl.float32)
    else:
        return tl.load(x_ptr, mask=lanes, other=0.0)  # (BLOCK_D,)


@triton.jit
def step_size(delta, bias, valid, SOFTPLUS: tl.constexpr):
    """Return delta after bias and softplus, or 0 if the step is not valid."""
    x = delta.to(tl.float32) + bias
    if SOFTPLUS:
        x = softplus(x)
    return tl.where(valid, x, 0.0)


@triton.jit
def over_own_channels(x, BLOCK_D: tl.constexpr):
    """Sum over the channels of each of 32 lanes, (BLOCK_D,) to (32,)."""
    return tl.sum(tl.reshape(x, (32, BLOCK_D // 32)), axis=1)


@triton.jit
def over_lanes(sums, lane, COUNT: tl.constexpr):
    """Sum each of COUNT blocks of 32 lanes, a power of two up to 32, over its lanes, and leave each sum in one of them.

    Two blocks at a time: half of the lanes send their part of the first and keep the second's, the other half the other
    way round, so that there are half as many blocks, and so on. That takes about COUNT exchanges instead of 5 COUNT.

    Args:
        sums: Tuple of blocks, (32,).
        lane: ``tl.arange(0, 32)``.
        COUNT: Length of ``sums``.

    Returns:
        (32,), with the sums where :func:`numbers_of_sums` says.
    """
    for level in tl.static_range(5):
        apart = 16 >> level
        partner = lane ^ apart
        halves = ()
        if (COUNT >> level) > 1:
            upper = (lane & apart) != 0
            for i in tl.static_range(COUNT >> (level + 1)):
                kept = tl.where(upper, sums[2 * i + 1], sums[2 * i])  # (32,)
                sent = tl.where(upper, sums[2 * i], sums[2 * i + 1])  # (32,)
                halves = halves + (kept + tl.gather(sent, partner, 0),)
        else:
            halves = (sums[0] + tl.gather(sums[0], partner, 0),)
        sums = halves
    return sums[0]


@triton.jit
def numbers_of_sums(lane, COUNT: tl.constexpr):
    """Return which of COUNT sums :func:`over_lanes` leaves in each lane, (32,), and a mask with one lane for each."""
    number = tl.zeros((32,), tl.int32)
    for level in tl.static_range(5):
        if (COUNT >> level) > 1:
            number += ((lane // (16 >> level)) % 2) << level
    return number, lane % (32 // COUNT) == 0


@triton.jit
def locate(blocks, group_dim, paths, segments, BLOCK_D: tl.constexpr, EXACT: tl.constexpr):
    """Return a program's group, channels, mask of those that exist, path, segment, batch element, block in the group.

    Neighbouring programs have neighbouring channels of the same steps. EXACT: all channels exist.
    """
    pid = tl.program_id(0)
    block = pid % blocks
    row = pid // blocks
    per_group = tl.cdiv(group_dim, BLOCK_D)
    g = block // per_group
    channel = (block % per_group) * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,), within the group
    lanes = tl.full((BLOCK_D,), True, tl.int1) if EXACT else channel < group_dim
    k = row % paths
    row = row // paths
    return g, g * group_dim + channel, lanes, k, row % segments, row // segments, block % per_group
