"""Few rows and many steps: cut L into segments that run side by side.

A segment's effect on the state is h -> decay * h + end, where `end` is the state that it reaches from zero and
decay = exp(A * sum of delta). :func:`segment_ends` finds both for every segment at once, :func:`chain_segments` runs
through the segments, of which there are few, and leaves the state before each of them. The gradient of the state goes
the same way backwards, from C * dy instead of delta * B * u. Where there are many states they wait in memory, see
`forward.py`.
"""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import LOG2E, locate, path_of, position, read_tile, sigmoid, step_size


@triton.jit
def over_tile(state, rate, steps, v, w_tile, offset, ADJOINT: tl.constexpr, STEPS: tl.constexpr):
    """One state after STEPS steps; or, ADJOINT, the gradient before them."""
    for j in tl.static_range(STEPS - 1 if ADJOINT else 0, -1 if ADJOINT else STEPS, -1 if ADJOINT else 1):
        w = tl.load(w_tile[j] + offset).to(tl.float32)
        decay = tl.exp2(steps[j] * rate)
        if ADJOINT:  # noqa: SIM108
            state = (state + v[j] * w) * decay
        else:
            state = decay * state + v[j] * w
    return state


@triton.jit(do_not_specialize=('L', 'segment', 'segments', 'blocks', 'map_ids', 'reverse', 'W_b', 'W_k', 'W_g', 'W_l'))
def segment_ends(
    x,
    delta,
    A,
    W,
    bias,
    z,
    maps,
    ends,
    totals,
    L,
    dim,
    group_dim,
    blocks,
    segment,
    segments,
    map_ids,
    reverse,
    x_b,
    x_k,
    x_l,
    delta_b,
    delta_k,
    delta_l,
    z_b,
    z_l,
    A_k,
    A_d,
    A_n,
    W_b,
    W_k,
    W_g,
    W_l,
    bias_k,
    PATHS: tl.constexpr,
    N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    FOLLOW_X: tl.constexpr,
    FOLLOW_DELTA: tl.constexpr,
    FOLLOW_W: tl.constexpr,
    ADJOINT: tl.constexpr,
    PARKED: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """State after each segment but the last from zero; or, ADJOINT, the gradient before each but the first.

    x, W: u and B; if ADJOINT, the gradient of the output (of the gated one, if z is not None) and C.
    ends: (b, PATHS, segments, N, dim) float32; the last (ADJOINT: the first) segment's is not written. If PARKED,
    states wait there.
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
    A += k * A_k + d.to(tl.int64) * A_d
    ends += row * N * dim + d
    rates, h = (), ()
    if PARKED:
        for n in range(0, N):
            tl.store(ends + n * dim, tl.zeros((BLOCK_D,), tl.float32), mask=lanes)
    else:
        for n in tl.static_range(N):
            rates = rates + (tl.load(A + n * A_n, mask=lanes, other=0.0) * LOG2E,)
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
        steps, v, w_tile = (), (), ()
        for j in tl.static_range(STEPS):
            t = t0 + j
            w_tile = w_tile + (W + position(t, end, L, map_id, backward, maps, FOLLOW_W) * W_l,)
            steps = steps + (step_size(raw[j], shift, t < end, SOFTPLUS),)
            total += steps[j]
            x_j = raw_x[j].to(tl.float32)
            if ADJOINT:
                if z is not None:
                    p = position(t, end, L, map_id, backward, maps, True)
                    gate = tl.load(z + p * z_l, mask=lanes, other=0.0).to(tl.float32)
                    x_j = x_j * gate * sigmoid(gate)
                x_j = tl.where(t < end, x_j, 0.0)
            else:
                x_j = x_j * steps[j]
            v = v + (x_j,)
        if PARKED:
            tl.debug_barrier()
            for n in range(0, N):
                rate = tl.load(A + n * A_n, mask=lanes, other=0.0) * LOG2E
                state = tl.load(ends + n * dim, mask=lanes, other=0.0)
                state = over_tile(state, rate, steps, v, w_tile, n, ADJOINT, STEPS)
                tl.store(ends + n * dim, state, mask=lanes)
        else:
            states = ()
            for n in tl.static_range(N):
                states = states + (over_tile(h[n], rates[n], steps, v, w_tile, n, ADJOINT, STEPS),)
            h = states
    tl.store(totals + row * dim + d, total, mask=lanes)
    if not PARKED:
        for n in tl.static_range(N):
            tl.store(ends + n * dim, h[n], mask=lanes)


@triton.jit(do_not_specialize=('segments',))
def chain_segments(
    ends,
    totals,
    first,
    A,
    dim,
    segments,
    A_k,
    A_d,
    A_n,
    PATHS: tl.constexpr,
    N: tl.constexpr,
    ADJOINT: tl.constexpr,
    AHEAD: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
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
    # What is read does not depend on what is computed: AHEAD segments' reads are under way at once.
    for i0 in range(0, segments, AHEAD):
        found, sums = (), ()
        for j in tl.static_range(AHEAD):
            i = i0 + j
            place = row * segments + (segments - 1 - i if ADJOINT else i)
            used = lanes & (i < segments - 1)
            found = found + (tl.load(ends + (place * N + n) * dim + d, mask=used, other=0.0),)
            sums = sums + (tl.load(totals + place * dim + d, mask=used, other=0.0),)
        for j in tl.static_range(AHEAD):
            i = i0 + j
            place = row * segments + (segments - 1 - i if ADJOINT else i)
            tl.store(ends + (place * N + n) * dim + d, state, mask=lanes & (i < segments))
            state = tl.exp2(sums[j] * rate) * state + found[j]
