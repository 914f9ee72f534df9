"""What the kernels share: softplus, the way from steps to positions, and reading a tile of steps."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def exp_and_sum(x):
    """exp(-|x|) and 1 + exp(-|x|), of which softplus and the sigmoid are made."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    return e, 1.0 + e


@triton.jit
def softplus(x, e):
    """log(1 + exp(x)) to the last bits of float32 for any x, from e = exp(-|x|).

    log(1 + e) = 2 atanh(e / (2 + e)), a series in the square of a number not above 1/3. A logarithm of 1 + e would
    lose what e has below the last bit of 1: three digits of a step size of 1e-3.
    """
    s = e / (2.0 + e)
    q = s * s
    p = q * (1 / 13) + (1 / 11)
    p = p * q + (1 / 9)
    p = p * q + (1 / 7)
    p = p * q + (1 / 5)
    p = p * q + (1 / 3)
    p = p * q + 1.0
    return tl.maximum(x, 0.0) + 2.0 * s * p


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    e, total = exp_and_sum(x)
    return tl.where(x >= 0, 1.0, e) / total


@triton.jit
def path_of(k, map_ids, reverse):
    """Number of path k's index map, counted from 1 (0: raster order), and whether it is walked backwards.

    `map_ids` holds three bits a path, `reverse` one.
    """
    return (map_ids >> (3 * k)) & 7, (reverse >> k) & 1


@triton.jit
def position(t, end, L, map_id, backward, maps, FOLLOW: tl.constexpr):
    """Position that is read at step t, int64; beyond the last step `end` - 1, the one that is read there.

    A step beyond the end thus reads what exists; its step size is 0, which leaves the state as it is.
    """
    t = tl.minimum(t, end - 1)
    if FOLLOW:
        p = tl.where(backward != 0, L - 1 - t, t).to(tl.int64)
        if maps is not None:
            mapped = tl.load(maps + (map_id - 1).to(tl.int64) * L + p, mask=map_id > 0, other=0)
            p = tl.where(map_id > 0, mapped, p)
    else:
        p = t.to(tl.int64)
    return p


@triton.jit
def read_tile(base, stride, t0, end, L, map_id, backward, maps, lanes, FOLLOW: tl.constexpr, STEPS: tl.constexpr):
    """STEPS steps from t0 on, as a tuple of (BLOCK_D,) in the dtype they are kept in."""
    tile = ()
    for j in tl.static_range(STEPS):
        p = position(t0 + j, end, L, map_id, backward, maps, FOLLOW)
        tile = tile + (tl.load(base + p * stride, mask=lanes, other=0.0),)
    return tile


@triton.jit
def step_size(raw, bias, valid, SOFTPLUS: tl.constexpr):
    """Delta after bias and softplus, or 0 where the step is not valid."""
    x = raw.to(tl.float32) + bias
    if SOFTPLUS:
        e, _ = exp_and_sum(x)
        x = softplus(x, e)
    return tl.where(valid, x, 0.0)


@triton.jit
def locate(blocks, group_dim, paths, segments, BLOCK_D: tl.constexpr):
    """What a program works on: group, channels, which of them exist, path, segment, batch element, block's number."""
    pid = tl.program_id(0)
    block = pid % blocks
    row = pid // blocks
    per_group = tl.cdiv(group_dim, BLOCK_D)
    group = block // per_group
    channel = (block % per_group) * BLOCK_D + tl.arange(0, BLOCK_D)
    lanes = channel < group_dim
    k = row % paths
    row = row // paths
    return group, group * group_dim + channel, lanes, k, row % segments, row // segments, block % per_group
