"""Few rows and many steps: cut each path into segments that run side by side.

A segment takes the state h to decay * h + end, where ``end`` is the state that it reaches from zero, and
decay = exp(A * sum of delta). :func:`segment_ends` finds ``end`` and the sum for all segments at once;
:func:`chain_segments` then goes through the segments, of which there are few, and leaves the state before each of them.

The gradient of the state (ADJOINT) goes the same way from the last segment to the first, with C * dy in place of
delta * B * u. Many states wait in memory (STATES_IN_MEMORY), see ``forward.py``.
"""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import (
    LOG2E,
    VARYING,
    is_before,
    locate,
    offset_of,
    point_at,
    read_positions,
    read_tile,
    sigmoid,
    step_size,
    unpack_path,
    without_padding,
)


@triton.jit
def advance_tile(state, rate, steps, v, W_ptrs, n, ADJOINT: tl.constexpr, STEPS: tl.constexpr):
    """Return state n after STEPS steps, (BLOCK_D,); or, ADJOINT, the gradient before them."""
    for j in tl.static_range(STEPS - 1 if ADJOINT else 0, -1 if ADJOINT else STEPS, -1 if ADJOINT else 1):
        W = tl.load(W_ptrs[j] + n).to(tl.float32)  # ()
        decay = tl.exp2(steps[j] * rate)
        if ADJOINT:  # noqa: SIM108
            state = (state + v[j] * W) * decay
        else:
            state = decay * state + v[j] * W
    return state


@triton.jit(do_not_specialize=VARYING)
def segment_ends(
    x_ptr,
    delta_ptr,
    A_ptr,
    W_ptr,
    bias_ptr,
    z_ptr,
    maps_ptr,
    W_zeros_ptr,
    ends_ptr,
    totals_ptr,
    num_steps,
    length,
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
    MAP_BITS: tl.constexpr,
    N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    FOLLOW_X: tl.constexpr,
    FOLLOW_DELTA: tl.constexpr,
    FOLLOW_W: tl.constexpr,
    ADJOINT: tl.constexpr,
    STATES_IN_MEMORY: tl.constexpr,
    EXACT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Find the state after each segment but the last from zero; or, ADJOINT, the gradient before each but the first.

    - x, W: u and B; if ADJOINT, the gradient of the output (of the gated one, if there is z) and C.
    - ends: (b, PATHS, segments, N, dim) float32; what belongs to the last (ADJOINT: first) segment is not written. It
      is also the memory of STATES_IN_MEMORY.
    - totals: sum of delta over the segment, (b, PATHS, segments, dim) float32; likewise.
    """
    PARTIAL: tl.constexpr = length is not None
    # Move the pointers to this program's batch element, path, group, segment and channels.
    g, d, lanes, k, s, b, _ = locate(blocks, group_dim, PATHS, segments - 1, BLOCK_D, EXACT)
    if ADJOINT:
        s += 1
    map_id, backward = unpack_path(k, map_ids, reverse, PATHS, MAP_BITS)
    path = (map_id, backward, num_steps if maps_ptr is None else maps_ptr, num_steps)
    b, k = b.to(tl.int64), k.to(tl.int64)
    row = (b * PATHS + k) * segments + s
    x_ptr += b * x_b + k * x_k + d  # (BLOCK_D,), as delta, z, A and ends
    delta_ptr += b * delta_b + k * delta_k + d
    W_ptr += b * W_b + k * W_k + g.to(tl.int64) * W_g  # ()
    if z_ptr is not None:
        z_ptr += b * z_b + d
    A_ptr += k * A_k + d.to(tl.int64) * A_d
    ends_ptr += row * N * dim + d

    # Start from zero, in memory or in registers.
    rates, h = (), ()
    if STATES_IN_MEMORY:
        for n in range(0, N):
            tl.store(ends_ptr + n * dim, tl.zeros((BLOCK_D,), tl.float32), mask=lanes)  # (BLOCK_D,)
    else:
        for n in tl.static_range(N):
            rates = rates + (tl.load(A_ptr + n * A_n, mask=lanes, other=0.0) * LOG2E,)  # (BLOCK_D,)
            h = h + (tl.zeros((BLOCK_D,), tl.float32),)
    bias = tl.zeros((BLOCK_D,), tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + k * bias_k + d, mask=lanes, other=0.0)  # (BLOCK_D,)

    total = tl.zeros((BLOCK_D,), tl.float32)
    start = s * segment
    end = tl.minimum(start + segment, num_steps)
    last = None if EXACT else end
    tiles = tl.cdiv(end - start, STEPS)
    for tile in range(0, tiles):
        t0 = start + (tiles - 1 - tile if ADJOINT else tile) * STEPS
        p = read_positions(t0, last, path, STEPS)
        x = read_tile(x_ptr, x_l, p, t0, last, lanes, FOLLOW_X, PARTIAL, WIDE, STEPS)
        delta = read_tile(delta_ptr, delta_l, p, t0, last, lanes, FOLLOW_DELTA, PARTIAL, WIDE, STEPS)

        # What does not depend on the state: step sizes, and what each step adds, v: delta u or, ADJOINT, dy.
        steps, v, W_ptrs = (), (), ()
        for j in tl.static_range(STEPS):
            t = t0 + j
            W_ptrs = W_ptrs + (point_at(W_ptr, W_l, W_zeros_ptr, p[j], t, last, FOLLOW_W, WIDE),)
            steps = steps + (step_size(delta[j], bias, is_before(t, last), SOFTPLUS),)
            total += steps[j]
            x_j = x[j].to(tl.float32)
            if ADJOINT:
                if z_ptr is not None:
                    read = without_padding(lanes, p[j], PARTIAL)  # (BLOCK_D,)
                    z = tl.load(z_ptr + offset_of(p[j], z_l, WIDE), mask=read, other=0.0).to(tl.float32)  # (BLOCK_D,)
                    x_j = x_j * z * sigmoid(z)
                x_j = tl.where(is_before(t, last), x_j, 0.0)
            else:
                x_j = x_j * steps[j]
            v = v + (x_j,)

        # Each state through the tile. (Of the barrier: see scan_forward.)
        if STATES_IN_MEMORY:
            tl.debug_barrier()
            for n in range(0, N):
                rate = tl.load(A_ptr + n * A_n, mask=lanes, other=0.0) * LOG2E  # (BLOCK_D,)
                state = tl.load(ends_ptr + n * dim, mask=lanes, other=0.0)  # (BLOCK_D,)
                state = advance_tile(state, rate, steps, v, W_ptrs, n, ADJOINT, STEPS)
                tl.store(ends_ptr + n * dim, state, mask=lanes)  # (BLOCK_D,)
        else:
            states = ()
            for n in tl.static_range(N):
                states = states + (advance_tile(h[n], rates[n], steps, v, W_ptrs, n, ADJOINT, STEPS),)
            h = states
    tl.store(totals_ptr + row * dim + d, total, mask=lanes)  # (BLOCK_D,)
    if not STATES_IN_MEMORY:
        for n in tl.static_range(N):
            tl.store(ends_ptr + n * dim, h[n], mask=lanes)  # (BLOCK_D,)


@triton.jit(do_not_specialize=VARYING)
def chain_segments(
    ends_ptr,
    totals_ptr,
    first_ptr,
    A_ptr,
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
    """Replace ``ends`` by the state before each segment (ADJOINT: the gradient after it), starting from ``first``.

    first: (b, PATHS, N, dim) float32; None: zeros.
    """
    # A program has BLOCK_D channels of one (batch element, path, state).
    pid = tl.program_id(0)
    blocks = tl.cdiv(dim, BLOCK_D)
    d = (pid % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    lanes = d < dim
    n = (pid // blocks) % N
    row = (pid // blocks // N).to(tl.int64)
    k = row % PATHS
    rate = tl.load(A_ptr + k * A_k + d.to(tl.int64) * A_d + n * A_n, mask=lanes, other=0.0) * LOG2E  # (BLOCK_D,)
    state = tl.zeros((BLOCK_D,), tl.float32)
    if first_ptr is not None:
        state = tl.load(first_ptr + (row * N + n) * dim + d, mask=lanes, other=0.0)  # (BLOCK_D,)
    # What is read does not depend on what is computed, so the reads of AHEAD segments are under way at once.
    for i0 in range(0, segments, AHEAD):
        ends, totals = (), ()
        for j in tl.static_range(AHEAD):
            i = i0 + j
            segment_row = row * segments + (segments - 1 - i if ADJOINT else i)
            used = lanes & (i < segments - 1)
            ends = ends + (tl.load(ends_ptr + (segment_row * N + n) * dim + d, mask=used, other=0.0),)  # (BLOCK_D,)
            totals = totals + (tl.load(totals_ptr + segment_row * dim + d, mask=used, other=0.0),)  # (BLOCK_D,)
        for j in tl.static_range(AHEAD):
            i = i0 + j
            segment_row = row * segments + (segments - 1 - i if ADJOINT else i)
            tl.store(ends_ptr + (segment_row * N + n) * dim + d, state, mask=lanes & (i < segments))  # (BLOCK_D,)
            state = tl.exp2(totals[j] * rate) * state + ends[j]
