"""The backward kernel.

As in the forward kernel, one warp has BLOCK_D channels of one (batch element, path, segment), and each lane has
channels of its own. The kernel takes chunks of CHUNK steps, from the last to the first; the forward pass has kept the
state before each. A first sweep over a chunk finds the state before each tile of STEPS. Then the tiles are taken from
the last, one state n at a time: forward again through the tile for the states, back through it for the gradients. What
belongs to a state n and outlives a tile waits in memory that no other program touches, and that is small enough for the
caches. With dy the gradient of y, and q[t] that of h[t] times the decay,

    g[t] = q[t+1] + C[t] dy[t]        dC[t] = sum over d of dy h            dv[t] = sum over n of g B
    q[t] = g[t] exp(delta A)          dB[t] = sum over d of g v             (v = delta u, so du = dv delta + D dy)
    ddelta[t] = dv u + sum over n of q h[t-1] A                             dA = sum over t of q h[t-1] delta

dB and dC are summed over the lanes here and over the blocks of channels afterwards, always in the same order.
"""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import (
    LN2,
    VARYING,
    column_of,
    gradient_of_gate,
    is_before,
    load_or_zeros,
    locate,
    numbers_of_sums,
    offset_of,
    over_lanes,
    over_own_channels,
    point_at,
    read_positions,
    read_tile,
    sigmoid,
    step_size,
    unpack_path,
    without_padding,
)

# So many states are taken in one round of a loop: their addresses differ by constants, and they share one addition.
UNROLL = tl.constexpr(4)


@triton.jit(do_not_specialize=VARYING)
def scan_backward(
    dout_ptr,
    u_ptr,
    delta_ptr,
    rates_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    z_ptr,
    maps_ptr,
    B_zeros_ptr,
    C_zeros_ptr,
    carry_ptr,
    boundaries_ptr,
    y_ptr,
    state_ptr,
    du_ptr,
    ddelta_ptr,
    dA_ptr,
    shares_ptr,
    dD_ptr,
    dbias_ptr,
    dz_ptr,
    dinitial_ptr,
    num_steps,
    length,
    dim,
    group_dim,
    blocks,
    segment,
    segments,
    map_ids,
    reverse,
    dout_b,
    dout_k,
    dout_l,
    u_b,
    u_k,
    u_l,
    delta_b,
    delta_k,
    delta_l,
    z_b,
    z_l,
    rates_k,
    B_b,
    B_k,
    B_g,
    B_l,
    C_b,
    C_k,
    C_g,
    C_l,
    D_k,
    bias_k,
    du_b,
    du_k,
    ddelta_b,
    ddelta_k,
    dz_b,
    dz_k,
    PATHS: tl.constexpr,
    MAP_BITS: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    FOLLOW_U: tl.constexpr,
    FOLLOW_DELTA: tl.constexpr,
    FOLLOW_B: tl.constexpr,
    FOLLOW_C: tl.constexpr,
    Y_PATHS: tl.constexpr,
    EXACT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Compute all gradients; shapes and strides as in :func:`scan_forward`.

    - rates: A by blocks of channels, of powers of two, see :func:`~mmvim.ops.selective_scan.triton.memory.block_rates`.
    - carry: gradient of the state after each segment, (b, PATHS, segments, N, dim) float32; None: zeros.
    - boundaries: from the forward pass. y: output before gating, (b, Y_PATHS, L, dim), if dz is wanted.
    - state: (programs, CHUNK / STEPS + 2, N, BLOCK_D) float32, memory for the states before the tiles of a chunk, for
      q and for the sum of dA.
    - du, ddelta: (b, PATHS, L, dim), or (b, PATHS, T, dim) if u or delta is not read along the paths.
    - dz: (b, Y_PATHS, L, dim), or None if there is no z or
      :func:`~mmvim.ops.selective_scan.triton.reduce.gate_gradient` finds it.
    - dA: (b, PATHS, segments, N, dim), dD, dbias: (b, PATHS, segments, dim), float32, or None; to be summed.
    - shares: of dC and of dB, (2, b, PATHS, groups, blocks of a group, ceil(T / STEPS), N, STEPS) float32, in the order
      of steps; see :func:`~mmvim.ops.selective_scan.triton.reduce.collect_projections`.
    - dinitial: gradient of the initial state, (b, PATHS, N, dim) float32, or None.

    Of partial paths du, ddelta and dz are zero to begin with, for there are positions that no step comes to.
    """
    PARTIAL: tl.constexpr = length is not None
    positions = num_steps if length is None else length
    # Move the pointers to this program's batch element, path, group and channels.
    g, d, lanes, k, s, b, block = locate(blocks, group_dim, PATHS, segments, BLOCK_D, EXACT)
    map_id, backward = unpack_path(k, map_ids, reverse, PATHS, MAP_BITS)
    path = (map_id, backward, num_steps if maps_ptr is None else maps_ptr, num_steps)
    b, k = b.to(tl.int64), k.to(tl.int64)
    row = b * PATHS + k
    dout_ptr += b * dout_b + k * dout_k + d  # (BLOCK_D,), as u, delta, du, ddelta, boundaries, z, dz, y and dA
    u_ptr += b * u_b + k * u_k + d
    delta_ptr += b * delta_b + k * delta_k + d
    rates_ptr += k * rates_k + (tl.program_id(0) % blocks) * (N * BLOCK_D) + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    B_ptr += b * B_b + k * B_k + g.to(tl.int64) * B_g  # (), as C
    C_ptr += b * C_b + k * C_k + g.to(tl.int64) * C_g
    du_ptr += b * du_b + k * du_k + d
    ddelta_ptr += b * ddelta_b + k * ddelta_k + d
    per_group = tl.cdiv(group_dim, BLOCK_D)
    share = tl.cdiv(num_steps, STEPS).to(tl.int64) * (STEPS * N)  # numbers that a block of channels leaves
    shares_ptr += ((row * (blocks // per_group) + g) * per_group + block) * share
    boundaries_ptr += row * tl.cdiv(num_steps, CHUNK) * N * dim + d
    # Paths that are summed share one gate, whose gradient the first of them writes.
    writes_dz = lanes
    if z_ptr is not None:
        z_ptr += b * z_b + d
    if dz_ptr is not None:
        dz_ptr += b * dz_b + k * dz_k + d
        y_ptr += (b * Y_PATHS + k % Y_PATHS) * positions * dim + d
        writes_dz = lanes & (k < Y_PATHS)

    # Start from the gradient after the segment, and from sums of zero.
    segment_row = row * segments + s
    dA_ptr += segment_row * N * dim + d
    # What waits in memory is at addresses that differ by constants, with places for channels that do not exist, too.
    PLACES: tl.constexpr = N * BLOCK_D
    state_ptr += tl.program_id(0).to(tl.int64) * (CHUNK // STEPS + 2) * PLACES + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    q_ptr = state_ptr + CHUNK // STEPS * PLACES  # (BLOCK_D,), followed by the sum of dA
    for n in range(0, N):
        after = tl.zeros((BLOCK_D,), tl.float32)
        if carry_ptr is not None:
            after = tl.load(carry_ptr + (segment_row * N + n) * dim + d, mask=lanes, other=0.0)  # (BLOCK_D,)
        tl.store(q_ptr + n * BLOCK_D, after)  # (BLOCK_D,)
        tl.store(q_ptr + PLACES + n * BLOCK_D, tl.zeros((BLOCK_D,), tl.float32))  # (BLOCK_D,)
    # D and bias are read for each tile: to keep them through the loops over states would cost registers.
    if D_ptr is not None:
        D_ptr += k * D_k + d  # (BLOCK_D,)
    if bias_ptr is not None:
        bias_ptr += k * bias_k + d  # (BLOCK_D,)
    dD = tl.zeros((BLOCK_D,), tl.float32)
    dbias = tl.zeros((BLOCK_D,), tl.float32)
    # The sums of a tile and a state: of dC and dB for each step, those of each in lanes that store them side by side.
    lane = tl.arange(0, 32)
    number, stores_sum = numbers_of_sums(lane, 2 * STEPS)
    shares = (tl.num_programs(0) // segments).to(tl.int64)
    sums_ptr = shares_ptr + (number % 2) * (shares * share) + number // 2  # (32,)

    start = s * segment
    end = tl.minimum(start + segment, num_steps)
    last = None if EXACT else end  # as in scan_forward
    chunks = tl.cdiv(end - start, CHUNK)
    for i in range(0, chunks):
        first = start + (chunks - 1 - i) * CHUNK
        tiles = tl.cdiv(tl.minimum(end - first, CHUNK), STEPS)

        # The state before the chunk is that before its first tile. (Of the barriers here and below: see scan_forward.)
        tl.debug_barrier()
        for n in range(0, N):
            state = tl.load(boundaries_ptr + (first // CHUNK).to(tl.int64) * N * dim + n * dim, mask=lanes, other=0.0)
            tl.store(state_ptr + n * BLOCK_D, state)  # (BLOCK_D,)

        # Sweep 1, forward: the state before each further tile, from that before the tile in front of it.
        for r in range(0, tiles - 1):
            t0 = first + r * STEPS
            p = read_positions(t0, last, path, STEPS)
            u = read_tile(u_ptr, u_l, p, t0, last, lanes, FOLLOW_U, PARTIAL, WIDE, STEPS)
            delta = read_tile(delta_ptr, delta_l, p, t0, last, lanes, FOLLOW_DELTA, PARTIAL, WIDE, STEPS)
            bias = load_or_zeros(bias_ptr, lanes, BLOCK_D)
            steps, v, B_ptrs = (), (), ()
            for j in tl.static_range(STEPS):
                steps = steps + (step_size(delta[j], bias, is_before(t0 + j, last), SOFTPLUS),)
                v = v + (steps[j] * u[j].to(tl.float32),)
                B_ptrs = B_ptrs + (point_at(B_ptr, B_l, B_zeros_ptr, p[j], t0 + j, last, FOLLOW_B, WIDE),)
            rate_ptr, tile_ptr = rates_ptr, state_ptr + r * PLACES
            tl.debug_barrier()
            for n in tl.range(0, N, loop_unroll_factor=UNROLL):
                rate = tl.load(rate_ptr)  # (BLOCK_D,)
                state = tl.load(tile_ptr)  # (BLOCK_D,)
                for j in tl.static_range(STEPS):
                    B = tl.load(B_ptrs[j] + n).to(tl.float32)  # ()
                    state = tl.exp2(steps[j] * rate) * state + v[j] * B
                tl.store(tile_ptr + PLACES, state)  # (BLOCK_D,)
                rate_ptr, tile_ptr = rate_ptr + BLOCK_D, tile_ptr + BLOCK_D

        # Sweep 2, backward: the gradients, tile by tile from the last.
        for r in range(0, tiles):
            tile = tiles - 1 - r
            t0 = first + tile * STEPS
            p = read_positions(t0, last, path, STEPS)
            u = read_tile(u_ptr, u_l, p, t0, last, lanes, FOLLOW_U, PARTIAL, WIDE, STEPS)
            delta = read_tile(delta_ptr, delta_l, p, t0, last, lanes, FOLLOW_DELTA, PARTIAL, WIDE, STEPS)
            dout = read_tile(dout_ptr, dout_l, p, t0, last, lanes, True, PARTIAL, WIDE, STEPS)

            # What does not depend on the state: step sizes, v = delta u, and dy, from the gradient behind the gate.
            # Steps beyond the end count for nothing: their step size and their dy are 0. So is the dy of padding steps.
            bias = load_or_zeros(bias_ptr, lanes, BLOCK_D)
            steps, v, dy, dv, dstep, B_ptrs, C_ptrs = (), (), (), (), (), (), ()
            for j in tl.static_range(STEPS):
                t = t0 + j
                B_ptrs = B_ptrs + (point_at(B_ptr, B_l, B_zeros_ptr, p[j], t, last, FOLLOW_B, WIDE),)
                C_ptrs = C_ptrs + (point_at(C_ptr, C_l, C_zeros_ptr, p[j], t, last, FOLLOW_C, WIDE),)
                steps = steps + (step_size(delta[j], bias, is_before(t, last), SOFTPLUS),)
                v = v + (steps[j] * u[j].to(tl.float32),)
                grad = tl.where(is_before(t, last), dout[j].to(tl.float32), 0.0)
                if z_ptr is not None:
                    read = without_padding(lanes, p[j], PARTIAL)  # (BLOCK_D,)
                    z = tl.load(z_ptr + offset_of(p[j], z_l, WIDE), mask=read, other=0.0).to(tl.float32)  # (BLOCK_D,)
                    open_by = sigmoid(z)
                    if dz_ptr is not None:
                        written = without_padding(writes_dz, p[j], PARTIAL)  # (BLOCK_D,)
                        offset = offset_of(p[j], dim, WIDE)
                        y = tl.load(y_ptr + offset, mask=written, other=0.0).to(tl.float32)  # (BLOCK_D,)
                        dz = gradient_of_gate(grad, y, z, open_by)
                        tl.store(dz_ptr + offset, dz, mask=written & is_before(t, last))  # (BLOCK_D,)
                    grad = grad * z * open_by
                dy = dy + (grad,)
                dv = dv + (tl.zeros((BLOCK_D,), tl.float32),)
                dstep = dstep + (tl.zeros((BLOCK_D,), tl.float32),)

            rate_ptr, tile_ptr, own_ptr = rates_ptr, state_ptr + tile * PLACES, q_ptr
            sum_ptr = sums_ptr + (t0 // STEPS).to(tl.int64) * (N * STEPS)  # (32,)
            tl.debug_barrier()
            for n in tl.range(0, N, loop_unroll_factor=UNROLL):
                rate = tl.load(rate_ptr)  # (BLOCK_D,)
                state = tl.load(tile_ptr)  # (BLOCK_D,)
                q = tl.load(own_ptr)  # (BLOCK_D,)
                dA = tl.load(own_ptr + PLACES)  # (BLOCK_D,)

                # Forward through the tile: states[j] is the state before step j, states[j + 1] the one after it.
                states, decays, B = (state,), (), ()
                for j in tl.static_range(STEPS):
                    B = B + (tl.load(B_ptrs[j] + n).to(tl.float32),)  # ()
                    decays = decays + (tl.exp2(steps[j] * rate),)
                    state = decays[j] * state + v[j] * B[j]
                    states = states + (state,)

                # And back, by the equations above.
                dv_sums, dstep_sums, sums = (), (), ()
                for j in tl.static_range(STEPS - 1, -1, -1):
                    C = tl.load(C_ptrs[j] + n).to(tl.float32)  # ()
                    dh = q + C * dy[j]
                    dC_share = over_own_channels(dy[j] * states[j + 1], BLOCK_D)  # (32,)
                    sums = (dC_share, over_own_channels(dh * v[j], BLOCK_D)) + sums
                    q = dh * decays[j]
                    flow = q * states[j]
                    dA += flow * steps[j]
                    dv_sums = (dv[j] + dh * B[j],) + dv_sums
                    dstep_sums = (dstep[j] + flow * rate,) + dstep_sums
                dv, dstep = dv_sums, dstep_sums
                tl.store(sum_ptr, over_lanes(sums, lane, 2 * STEPS), mask=stores_sum)  # (32,)
                tl.store(own_ptr, q)  # (BLOCK_D,)
                tl.store(own_ptr + PLACES, dA)  # (BLOCK_D,)
                rate_ptr, tile_ptr, own_ptr = rate_ptr + BLOCK_D, tile_ptr + BLOCK_D, own_ptr + BLOCK_D
                sum_ptr += STEPS

            # u and delta are read again, too. ``rate`` is A in powers of two, hence LN2.
            bias, D = load_or_zeros(bias_ptr, lanes, BLOCK_D), load_or_zeros(D_ptr, lanes, BLOCK_D)
            u = read_tile(u_ptr, u_l, p, t0, last, lanes, FOLLOW_U, PARTIAL, WIDE, STEPS)
            delta = read_tile(delta_ptr, delta_l, p, t0, last, lanes, FOLLOW_DELTA, PARTIAL, WIDE, STEPS)
            for j in tl.static_range(STEPS):
                t = t0 + j
                valid = lanes & (is_before(t, last))
                x = u[j].to(tl.float32)
                grad = dstep[j] * LN2 + dv[j] * x
                if SOFTPLUS:
                    grad = grad * sigmoid(delta[j].to(tl.float32) + bias)
                grad = tl.where(is_before(t, last), grad, 0.0)
                u_position = column_of(p[j], t, last, FOLLOW_U)
                delta_position = column_of(p[j], t, last, FOLLOW_DELTA)
                delta_valid = without_padding(valid, delta_position, PARTIAL and FOLLOW_DELTA)  # (BLOCK_D,)
                u_valid = without_padding(valid, u_position, PARTIAL and FOLLOW_U)  # (BLOCK_D,)
                tl.store(ddelta_ptr + offset_of(delta_position, dim, WIDE), grad, mask=delta_valid)  # (BLOCK_D,)
                du = dv[j] * steps[j] + dy[j] * D
                tl.store(du_ptr + offset_of(u_position, dim, WIDE), du, mask=u_valid)  # (BLOCK_D,)
                dbias += grad
                dD += dy[j] * x

    # Leave the segment's share of what is summed over steps.
    tl.debug_barrier()
    for n in range(0, N):
        dA = tl.load(q_ptr + PLACES + n * BLOCK_D)  # (BLOCK_D,)
        tl.store(dA_ptr + n * dim, dA, mask=lanes)  # (BLOCK_D,)
    if dD_ptr is not None:
        tl.store(dD_ptr + segment_row * dim + d, dD, mask=lanes)  # (BLOCK_D,)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + segment_row * dim + d, dbias, mask=lanes)  # (BLOCK_D,)
    if dinitial_ptr is not None:  # noqa: SIM102 (known when the kernel is compiled, unlike the next)
        if s == 0:
            for n in range(0, N):
                after = tl.load(q_ptr + n * BLOCK_D)  # (BLOCK_D,)
                tl.store(dinitial_ptr + (row * N + n) * dim + d, after, mask=lanes)  # (BLOCK_D,)
