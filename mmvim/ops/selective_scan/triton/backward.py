"""The backward kernel.

As in the forward kernel, one warp has BLOCK_D channels of one (batch element, path, segment of L) and its lanes have
channels to themselves. It takes chunks of CHUNK steps from the last to the first. Of each it knows the state before it;
a first sweep finds the state before each tile of STEPS, and then the tiles are taken from the last, one state n at a
time: forward again through the tile for the states, back through it for the gradients. What belongs to a state n and
outlives a tile waits in memory that no other program touches, and that is small enough for the caches. With dy the
gradient of y, q[t] that of h[t] times the decay,

    g[t] = q[t+1] + C[t] dy[t]        dC[t] = sum over d of dy h            dv[t] = sum over n of g B
    q[t] = g[t] exp(delta A)          dB[t] = sum over d of g v             (v = delta u, so du = dv delta + D dy)
    ddelta[t] = dv u + sum over n of q h[t-1] A                             dA = sum over t of q h[t-1] delta

dB and dC are summed over the lanes here and over the blocks of channels afterwards, always in the same order.
"""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import (
    LN2,
    LOG2E,
    locate,
    path_of,
    position,
    read_tile,
    sigmoid,
    step_size,
)


@triton.jit(
    do_not_specialize=(
        'L',
        'segment',
        'segments',
        'blocks',
        'map_ids',
        'reverse',
        'B_b',
        'B_k',
        'B_g',
        'B_l',
        'C_b',
        'C_k',
        'C_g',
        'C_l',
    )
)
def scan_backward(
    dout,
    u,
    delta,
    A,
    B,
    C,
    D,
    bias,
    z,
    maps,
    carry,
    bounds,
    y,
    scratch,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dD,
    dbias,
    dz,
    dfirst,
    L,
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
    A_k,
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
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    FOLLOW_U: tl.constexpr,
    FOLLOW_DELTA: tl.constexpr,
    FOLLOW_B: tl.constexpr,
    FOLLOW_C: tl.constexpr,
    Y_PATHS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """All gradients; shapes and strides as in :func:`scan_forward`, A as (1|PATHS, N, dim).

    carry: Gradient of the state after each segment, (b, PATHS, segments, N, dim) float32, or None, zeros.
    bounds: From the forward pass. y: output before gating, (b, Y_PATHS, L, dim), where there is z.
    scratch: (programs, CHUNK / STEPS + 1, N, BLOCK_D) float32: states before the tiles of a chunk, and q.
    du, ddelta, dz: (b, 1|PATHS, L, dim); their path stride is 0 where one path alone has written or shall write them.
    dA: (b, PATHS, segments, N, dim), dD, dbias: (b, PATHS, segments, dim), float32, or None; to be summed.
    dB, dC: (b, PATHS, groups, blocks of a group, ceil(L / STEPS), N, STEPS) float32, in the order of steps; see
    :func:`~mmvim.ops.selective_scan.triton.reduce.collect_projections`.
    dfirst: Gradient of the initial state, (b, PATHS, N, dim) float32, or None.
    """
    group, d, lanes, k, s, b, block = locate(blocks, group_dim, PATHS, segments, BLOCK_D)
    map_id, backward = path_of(k, map_ids, reverse)
    b, k = b.to(tl.int64), k.to(tl.int64)
    row = b * PATHS + k
    dout += b * dout_b + k * dout_k + d
    u += b * u_b + k * u_k + d
    delta += b * delta_b + k * delta_k + d
    A += k * A_k + d
    B += b * B_b + k * B_k + group.to(tl.int64) * B_g
    C += b * C_b + k * C_k + group.to(tl.int64) * C_g
    du += b * du_b + k * du_k + d
    ddelta += b * ddelta_b + k * ddelta_k + d
    per_group = tl.cdiv(group_dim, BLOCK_D)
    partial = ((row * (blocks // per_group) + group) * per_group + block) * (tl.cdiv(L, STEPS) * STEPS * N)
    dB += partial
    dC += partial
    bounds += row * tl.cdiv(L, CHUNK) * N * dim + d
    writes_dz = lanes
    if z is not None:
        z += b * z_b + d
        dz += b * dz_b + k * dz_k + d
        y += (b * Y_PATHS + k % Y_PATHS) * L * dim + d
        writes_dz = lanes & (k < Y_PATHS)

    place = row * segments + s
    dA += place * N * dim + d
    scratch += tl.program_id(0).to(tl.int64) * (CHUNK // STEPS + 1) * N * BLOCK_D + tl.arange(0, BLOCK_D)
    q = scratch + CHUNK // STEPS * N * BLOCK_D
    for n in range(0, N):
        after = tl.zeros((BLOCK_D,), tl.float32)
        if carry is not None:
            after = tl.load(carry + (place * N + n) * dim + d, mask=lanes, other=0.0)
        tl.store(q + n * BLOCK_D, after)
        tl.store(dA + n * dim, tl.zeros((BLOCK_D,), tl.float32), mask=lanes)
    skip = tl.zeros((BLOCK_D,), tl.float32)
    if D is not None:
        skip = tl.load(D + k * D_k + d, mask=lanes, other=0.0)
    shift = tl.zeros((BLOCK_D,), tl.float32)
    if bias is not None:
        shift = tl.load(bias + k * bias_k + d, mask=lanes, other=0.0)
    sum_D = tl.zeros((BLOCK_D,), tl.float32)
    sum_bias = tl.zeros((BLOCK_D,), tl.float32)

    start = s * segment
    end = tl.minimum(start + segment, L)
    chunks = tl.cdiv(end - start, CHUNK)
    for i in range(0, chunks):
        first = start + (chunks - 1 - i) * CHUNK
        tiles = tl.cdiv(tl.minimum(end - first, CHUNK), STEPS)
        tl.debug_barrier()
        for n in range(0, N):
            state = tl.load(bounds + (first // CHUNK).to(tl.int64) * N * dim + n * dim, mask=lanes, other=0.0)
            tl.store(scratch + n * BLOCK_D, state)
        for r in range(0, tiles - 1):
            t0 = first + r * STEPS
            raw_u = read_tile(u, u_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_U, STEPS)
            raw = read_tile(delta, delta_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_DELTA, STEPS)
            steps, v, at_B = (), (), ()
            for j in tl.static_range(STEPS):
                steps = steps + (step_size(raw[j], shift, t0 + j < end, SOFTPLUS),)
                v = v + (steps[j] * raw_u[j].to(tl.float32),)
                at_B = at_B + (position(t0 + j, end, L, map_id, backward, maps, FOLLOW_B) * B_l,)
            tl.debug_barrier()
            for n in range(0, N):
                rate = tl.load(A + n * dim, mask=lanes, other=0.0) * LOG2E
                state = tl.load(scratch + (r * N + n) * BLOCK_D)
                for j in tl.static_range(STEPS):
                    b_n = tl.load(B + at_B[j] + n).to(tl.float32)
                    state = tl.exp2(steps[j] * rate) * state + v[j] * b_n
                tl.store(scratch + ((r + 1) * N + n) * BLOCK_D, state)

        for r in range(0, tiles):
            tile = tiles - 1 - r
            t0 = first + tile * STEPS
            raw_u = read_tile(u, u_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_U, STEPS)
            raw = read_tile(delta, delta_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_DELTA, STEPS)
            raw_dout = read_tile(dout, dout_l, t0, end, L, map_id, backward, maps, lanes, True, STEPS)
            steps, v, dy, dv, dstep, at_B, at_C = (), (), (), (), (), (), ()
            for j in tl.static_range(STEPS):
                t = t0 + j
                at_B = at_B + (position(t, end, L, map_id, backward, maps, FOLLOW_B) * B_l,)
                at_C = at_C + (position(t, end, L, map_id, backward, maps, FOLLOW_C) * C_l,)
                steps = steps + (step_size(raw[j], shift, t < end, SOFTPLUS),)
                v = v + (steps[j] * raw_u[j].to(tl.float32),)
                grad = tl.where(t < end, raw_dout[j].to(tl.float32), 0.0)
                if z is not None:
                    p = position(t, end, L, map_id, backward, maps, True)
                    gate = tl.load(z + p * z_l, mask=lanes, other=0.0).to(tl.float32)
                    open_by = sigmoid(gate)
                    ungated = tl.load(y + p * dim, mask=writes_dz, other=0.0).to(tl.float32)
                    tl.store(
                        dz + p * dim,
                        grad * ungated * open_by * (1.0 + gate * (1.0 - open_by)),
                        mask=writes_dz & (t < end),
                    )
                    grad = grad * gate * open_by
                dy = dy + (grad,)
                dv = dv + (tl.zeros((BLOCK_D,), tl.float32),)
                dstep = dstep + (tl.zeros((BLOCK_D,), tl.float32),)

            sums = (t0 // STEPS).to(tl.int64) * N * STEPS
            tl.debug_barrier()
            for n in range(0, N):
                rate = tl.load(A + n * dim, mask=lanes, other=0.0) * LOG2E
                state = tl.load(scratch + (tile * N + n) * BLOCK_D)
                q_n = tl.load(q + n * BLOCK_D)
                dA_n = tl.load(dA + n * dim, mask=lanes, other=0.0)
                states, decays, b_tile = (state,), (), ()
                for j in tl.static_range(STEPS):
                    b_tile = b_tile + (tl.load(B + at_B[j] + n).to(tl.float32),)
                    decays = decays + (tl.exp2(steps[j] * rate),)
                    state = decays[j] * state + v[j] * b_tile[j]
                    states = states + (state,)
                new_dv, new_dstep = (), ()
                for j in tl.static_range(STEPS - 1, -1, -1):
                    c_n = tl.load(C + at_C[j] + n).to(tl.float32)
                    tl.store(dC + sums + n * STEPS + j, tl.sum(dy[j] * states[j + 1], axis=0))
                    g = q_n + c_n * dy[j]
                    tl.store(dB + sums + n * STEPS + j, tl.sum(g * v[j], axis=0))
                    q_n = g * decays[j]
                    flow = q_n * states[j]
                    dA_n += flow * steps[j]
                    new_dv = (dv[j] + g * b_tile[j],) + new_dv
                    new_dstep = (dstep[j] + flow * rate,) + new_dstep
                dv, dstep = new_dv, new_dstep
                tl.store(q + n * BLOCK_D, q_n)
                tl.store(dA + n * dim, dA_n, mask=lanes)

            # What was needed of u and delta was not kept through the loop over states.
            raw_u = read_tile(u, u_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_U, STEPS)
            raw = read_tile(delta, delta_l, t0, end, L, map_id, backward, maps, lanes, FOLLOW_DELTA, STEPS)
            for j in tl.static_range(STEPS):
                t = t0 + j
                valid = lanes & (t < end)
                x = raw_u[j].to(tl.float32)
                grad = dstep[j] * LN2 + dv[j] * x
                if SOFTPLUS:
                    grad = grad * sigmoid(raw[j].to(tl.float32) + shift)
                grad = tl.where(t < end, grad, 0.0)
                at_u = position(t, end, L, map_id, backward, maps, FOLLOW_U)
                at_delta = position(t, end, L, map_id, backward, maps, FOLLOW_DELTA)
                tl.store(ddelta + at_delta * dim, grad, mask=valid)
                tl.store(du + at_u * dim, dv[j] * steps[j] + dy[j] * skip, mask=valid)
                sum_bias += grad
                sum_D += dy[j] * x

    if dD is not None:
        tl.store(dD + place * dim + d, sum_D, mask=lanes)
    if dbias is not None:
        tl.store(dbias + place * dim + d, sum_bias, mask=lanes)
    if dfirst is not None:  # noqa: SIM102 (known when the kernel is compiled, unlike the next)
        if s == 0:
            tl.debug_barrier()
            for n in range(0, N):
                tl.store(dfirst + (row * N + n) * dim + d, tl.load(q + n * BLOCK_D), mask=lanes)
