"""Few rows and many steps: cut L into segments that run side by side.

A segment's effect on the state is h -> decay * h + end, where `end` is the state that it reaches from zero and
decay = exp(A * sum of delta). :func:`segment_ends` finds both for every segment at once, :func:`chain_segments` runs
through the segments, of which there are few, and leaves the state before each of them. The gradient of the state goes
the same way backwards, from C * dy instead of delta * B * u.
"""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.device import LOG2E, locate, path_of, position, read_tile, sigmoid, step_size


@triton.jit(do_not_specialize=('L', 'segment', 'segments', 'blocks', 'map_ids', 'reverse', 'W_b', 'W_k', 'W_g', 'W_l'))
def segment_ends(x, delta, A, W, bias, z, maps, ends, totals,
                 L, dim, group_dim, blocks, segment, segments, map_ids, reverse,
                 x_b, x_k, x_l, delta_b, delta_k, delta_l, z_b, z_l, A_k, A_d, A_n, W_b, W_k, W_g, W_l, W_n, bias_k,
                 PATHS: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, FOLLOW_X: tl.constexpr,
                 FOLLOW_DELTA: tl.constexpr, FOLLOW_W: tl.constexpr, ADJOINT: tl.constexpr, BLOCK_D: tl.constexpr,
                 STEPS: tl.constexpr):
    """State after each segment but the last from zero; or, ADJOINT, the gradient before each but the first.

    x, W: u and B; if ADJOINT, the gradient of the output (of the gated one, if z is not None) and C.
    ends: (b, PATHS, segments, N, dim) float32; the last (ADJOINT: the first) segment's is not written.
    totals: Sum of delta over the segment, (b, PATHS, segments, dim) float32; likewise.
    """
    group, d, lanes, k, s, b, _ = locate(blocks, group_dim, PATHS, segments - 1, BLOCK_D)
    if ADJOINT:
        s += 1
    map_id, backward = path_of(k, map_ids, reverse)
    b, k = b.to(tl.int64), k.to(tl.int64)
    row = (b * PATHS + k) * segments + s
    x += b * x_b + k * x_k + d
    delta += b * delta_b + k * delta_k + d
    W += b * W_b + k * W_k + group.to(tl.int64) * W_g
    if z is not None:
        z += b * z_b + d
    rates, h = (), ()
    for n in tl.static_range(N):
        rates = rates + (tl.load(A + k * A_k + d.to(tl.int64) * A_d + n * A_n, mask=lanes, other=0.0) * LOG2E,)
        h = h + (tl.zeros((BLOCK_D,), tl.float32),)
    shift = tl.zeros((BLOCK_D,), tl.float32)
    if bias is not None:
        shift = tl.load(bias + k * bias_k + d, mask=lanes, other=0.0)

    total = tl.zeros((BLOCK_D,), tl.float32)
    start = s * segment
    end = tl.minimum(start + segment, L)
    tiles = tl.cdiv(end - start, STEPS)
    for tile in range(0, tiles):
        t0 = start + (tiles - 1 - tile if ADJOINT else tile) * STEPS
        raw_x = read_tile(x, x_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_X, STEPS)
        raw = read_tile(delta, delta_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_DELTA, STEPS)
        for j in tl.static_range(STEPS - 1 if ADJOINT else 0, -1 if ADJOINT else STEPS, -1 if ADJOINT else 1):
            t = t0 + j
            w_t = W + position(t, end, L, map_id, backward, maps, FOLLOW_W) * W_l
            step = step_size(raw[j], shift, t < end, SOFTPLUS)
            total += step
            v = raw_x[j].to(tl.float32)
            if ADJOINT:
                if z is not None:
                    p = position(t, end, L, map_id, backward, maps, True)
                    gate = tl.load(z + p * z_l, mask=lanes, other=0.0).to(tl.float32)
                    v = v * gate * sigmoid(gate)
                v = tl.where(t < end, v, 0.0)
            else:
                v = v * step
            states = ()
            for n in tl.static_range(N):
                w = tl.load(w_t + n * W_n).to(tl.float32)
                decay = tl.exp2(step * rates[n])
                if ADJOINT:  # noqa: SIM108
                    states = states + ((h[n] + v * w) * decay,)
                else:
                    states = states + (decay * h[n] + v * w,)
            h = states
    tl.store(totals + row * dim + d, total, mask=lanes)
    for n in tl.static_range(N):
        tl.store(ends + (row * N + n) * dim + d, h[n], mask=lanes)


@triton.jit(do_not_specialize=('segments',))
def chain_segments(ends, totals, first, A, dim, segments, A_k, A_d, A_n, PATHS: tl.constexpr, N: tl.constexpr,
                   ADJOINT: tl.constexpr, BLOCK_D: tl.constexpr):
    """Replace `ends` by the state before each segment (ADJOINT: the gradient after it), from `first` on.

    first: (b, PATHS, N, dim) float32, or None, zeros.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(dim, BLOCK_D)
    d = (pid % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    lanes = d < dim
    n = (pid // blocks) % N
    row = (pid // blocks // N).to(tl.int64)
    k = row % PATHS
    rate = tl.load(A + k * A_k + d.to(tl.int64) * A_d + n * A_n, mask=lanes, other=0.0) * LOG2E
    state = tl.zeros((BLOCK_D,), tl.float32)
    if first is not None:
        state = tl.load(first + (row * N + n) * dim + d, mask=lanes, other=0.0)
    for i in range(0, segments):
        s = segments - 1 - i if ADJOINT else i
        place = row * segments + s
        used = lanes & (i < segments - 1)
        end = tl.load(ends + (place * N + n) * dim + d, mask=used, other=0.0)
        total = tl.load(totals + place * dim + d, mask=used, other=0.0)
        tl.store(ends + (place * N + n) * dim + d, state, mask=lanes)
        state = tl.exp2(total * rate) * state + end
