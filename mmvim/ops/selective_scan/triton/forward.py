"""The forward kernel.

One program, one warp: BLOCK_D neighbouring channels of one (batch element, path, segment of L). A lane has its channels
to itself, so the sum over states needs no other lane, and B[t, n] and C[t, n] are scalars that all lanes share. Steps
are taken in tiles of STEPS; the next tile's loads are under way meanwhile. Few states stay in registers. Many do not
find room there (64 states and their rates of decay are 128 numbers a channel): PARKED, the states are taken one after
the other through a tile, and wait in memory that no other program touches, as in the backward kernel.
States and steps are unrolled as tuples, so nothing depends on how the compiler lays out a tensor of several axes.
"""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import (
    LOG2E,
    locate,
    path_of,
    position,
    read_tile,
    sigmoid,
    step_size,
)


@triton.jit
def initial_state(carry, place, lanes, BLOCK_D: tl.constexpr):
    """What `carry` has at `place`, or zeros where there is none."""
    if carry is None:
        return tl.zeros((BLOCK_D,), tl.float32)
    else:
        return tl.load(carry + place, mask=lanes, other=0.0)


@triton.jit
def advance(state, step, rate, v, b_n, c_n):
    """A state after a step, and its share of the step's output; `b_n` and `c_n` point to B[t, n] and C[t, n]."""
    state = tl.exp2(step * rate) * state + v * tl.load(b_n).to(tl.float32)
    return state, state * tl.load(c_n).to(tl.float32)


@triton.jit
def put(value, p, z, z_l, y, out, dim, lanes, valid):
    """Write a step's output to position `p`, gated if there is z, and as it is if there is y."""
    valid = lanes & valid
    if y is not None:
        tl.store(y + p * dim, value, mask=valid)
    if z is not None:
        gate = tl.load(z + p * z_l, mask=lanes, other=0.0).to(tl.float32)
        value = value * gate * sigmoid(gate)
    tl.store(out + p * dim, value, mask=valid)


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
def scan_forward(
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
    parked,
    out,
    y,
    last_state,
    bounds,
    L,
    dim,
    group_dim,
    blocks,
    segment,
    segments,
    map_ids,
    reverse,
    u_b,
    u_k,
    u_l,
    delta_b,
    delta_k,
    delta_l,
    z_b,
    z_l,
    A_k,
    A_d,
    A_n,
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
    PATHS: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    FOLLOW_U: tl.constexpr,
    FOLLOW_DELTA: tl.constexpr,
    FOLLOW_B: tl.constexpr,
    FOLLOW_C: tl.constexpr,
    PARKED: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Outputs of every path, and what the backward pass starts from.

    Strides are in elements; u, delta and z have channels contiguous, B and C states.
    Tensors made for the kernel are dense:

    carry: State before each segment, (b, PATHS, segments, N, dim) float32, or None, zeros.
    parked: (programs, N, BLOCK_D) float32, where states wait if PARKED, else None.
    out: (b, PATHS, L, dim), gated if z is not None.
    y: The same before gating, or None.
    last_state: (b, PATHS, N, dim) float32.
    bounds: State before each CHUNK steps, (b, PATHS, ceil(L / CHUNK), N, dim) float32, or None.
    """
    group, d, lanes, k, s, b, _ = locate(blocks, group_dim, PATHS, segments, BLOCK_D)
    map_id, backward = path_of(k, map_ids, reverse)
    b, k = b.to(tl.int64), k.to(tl.int64)
    row = b * PATHS + k
    u += b * u_b + k * u_k + d
    delta += b * delta_b + k * delta_k + d
    B += b * B_b + k * B_k + group.to(tl.int64) * B_g
    C += b * C_b + k * C_k + group.to(tl.int64) * C_g
    out += row * L * dim + d
    if y is not None:
        y += row * L * dim + d
    if z is not None:
        z += b * z_b + d

    A += k * A_k + d.to(tl.int64) * A_d
    before = (row * segments + s) * N * dim + d
    rates, h = (), ()
    if PARKED:
        parked += tl.program_id(0).to(tl.int64) * N * BLOCK_D + tl.arange(0, BLOCK_D)
        for n in range(0, N):
            tl.store(parked + n * BLOCK_D, initial_state(carry, before + n * dim, lanes, BLOCK_D))
    else:
        for n in tl.static_range(N):
            rates = rates + (tl.load(A + n * A_n, mask=lanes, other=0.0) * LOG2E,)
            h = h + (initial_state(carry, before + n * dim, lanes, BLOCK_D),)
    skip = tl.zeros((BLOCK_D,), tl.float32)
    if D is not None:
        skip = tl.load(D + k * D_k + d, mask=lanes, other=0.0)
    shift = tl.zeros((BLOCK_D,), tl.float32)
    if bias is not None:
        shift = tl.load(bias + k * bias_k + d, mask=lanes, other=0.0)

    start = s * segment
    end = tl.minimum(start + segment, L)
    next_u = read_tile(u, u_l, start, end, L, map_id, backward, maps, lanes, FOLLOW_U, STEPS)
    next_delta = read_tile(delta, delta_l, start, end, L, map_id, backward, maps, lanes, FOLLOW_DELTA, STEPS)
    for t0 in range(start, end, STEPS):
        if bounds is not None:  # noqa: SIM102 (known when the kernel is compiled, unlike the next)
            if t0 % CHUNK == 0:
                place = (row * tl.cdiv(L, CHUNK) + t0 // CHUNK) * N * dim + d
                if PARKED:
                    tl.debug_barrier()
                    for n in range(0, N):
                        tl.store(bounds + place + n * dim, tl.load(parked + n * BLOCK_D), mask=lanes)
                else:
                    for n in tl.static_range(N):
                        tl.store(bounds + place + n * dim, h[n], mask=lanes)
        raw_u, raw_delta = next_u, next_delta
        next_u = read_tile(u, u_l, t0 + STEPS, end, L, map_id, backward, maps, lanes, FOLLOW_U, STEPS)
        next_delta = read_tile(delta, delta_l, t0 + STEPS, end, L, map_id, backward, maps, lanes, FOLLOW_DELTA, STEPS)
        if PARKED:
            steps, v, value, b_tile, c_tile = (), (), (), (), ()
            for j in tl.static_range(STEPS):
                t = t0 + j
                steps = steps + (step_size(raw_delta[j], shift, t < end, SOFTPLUS),)
                x = raw_u[j].to(tl.float32)
                v = v + (steps[j] * x,)
                value = value + (skip * x,)
                b_tile = b_tile + (B + position(t, end, L, map_id, backward, maps, FOLLOW_B) * B_l,)
                c_tile = c_tile + (C + position(t, end, L, map_id, backward, maps, FOLLOW_C) * C_l,)
            tl.debug_barrier()
            for n in range(0, N):
                rate = tl.load(A + n * A_n, mask=lanes, other=0.0) * LOG2E
                state = tl.load(parked + n * BLOCK_D)
                values = ()
                for j in tl.static_range(STEPS):
                    state, added = advance(state, steps[j], rate, v[j], b_tile[j] + n, c_tile[j] + n)
                    values = values + (value[j] + added,)
                value = values
                tl.store(parked + n * BLOCK_D, state)
            for j in tl.static_range(STEPS):
                t = t0 + j
                p = position(t, end, L, map_id, backward, maps, True)
                put(value[j], p, z, z_l, y, out, dim, lanes, t < end)
        else:
            for j in tl.static_range(STEPS):
                t = t0 + j
                p = position(t, end, L, map_id, backward, maps, True)
                b_t = B + position(t, end, L, map_id, backward, maps, FOLLOW_B) * B_l
                c_t = C + position(t, end, L, map_id, backward, maps, FOLLOW_C) * C_l
                x = raw_u[j].to(tl.float32)
                step = step_size(raw_delta[j], shift, t < end, SOFTPLUS)
                v = step * x
                value = skip * x
                states = ()
                for n in tl.static_range(N):
                    state, added = advance(h[n], step, rates[n], v, b_t + n, c_t + n)
                    value += added
                    states = states + (state,)
                h = states
                put(value, p, z, z_l, y, out, dim, lanes, t < end)

    if s == segments - 1:
        if PARKED:
            tl.debug_barrier()
            for n in range(0, N):
                tl.store(last_state + (row * N + n) * dim + d, tl.load(parked + n * BLOCK_D), mask=lanes)
        else:
            for n in tl.static_range(N):
                tl.store(last_state + (row * N + n) * dim + d, h[n], mask=lanes)
