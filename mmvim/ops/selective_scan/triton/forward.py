"""The forward kernel.

A program is one warp and has BLOCK_D neighbouring channels of one (batch element, path, segment). Each lane has
channels of its own, so summing over states needs no other lane, and B[t, n] and C[t, n] are scalars that all lanes
share. Steps are taken in tiles of STEPS, while the loads of the next tile are under way.

A few states stay in registers. Many do not fit there (64 states and their rates of decay are 128 numbers a channel):
with STATES_IN_MEMORY they wait in memory that no other program touches, as in the backward kernel, and each of them in
turn is taken through the whole tile.

States and steps are unrolled as tuples, so nothing depends on how the compiler lays out a tensor of several axes.
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
def load_carry(carry_ptr, offset, lanes, BLOCK_D: tl.constexpr):
    """Load a state that the segment starts from, (BLOCK_D,), or return zeros if there is none."""
    if carry_ptr is None:
        return tl.zeros((BLOCK_D,), tl.float32)
    else:
        return tl.load(carry_ptr + offset, mask=lanes, other=0.0)  # (BLOCK_D,)


@triton.jit
def advance(state, step, rate, v, B_ptr, C_ptr):
    """Return a state after a step, and its share of the step's output; the pointers are to B[t, n] and C[t, n]."""
    state = tl.exp2(step * rate) * state + v * tl.load(B_ptr).to(tl.float32)  # (BLOCK_D,); B is ()
    return state, state * tl.load(C_ptr).to(tl.float32)  # (BLOCK_D,); C is ()


@triton.jit
def store_output(y, p, z_ptr, z_l, y_ptr, out_ptr, dim, lanes, valid, WIDE: tl.constexpr):
    """Store the output of a step at position p: gated if there is z, and ungated if there is room for it."""
    valid = lanes & valid
    offset = offset_of(p, dim, WIDE)
    if y_ptr is not None:
        tl.store(y_ptr + offset, y, mask=valid)  # (BLOCK_D,)
    if z_ptr is not None:
        z = tl.load(z_ptr + offset_of(p, z_l, WIDE), mask=lanes, other=0.0).to(tl.float32)  # (BLOCK_D,)
        y = y * z * sigmoid(z)
    tl.store(out_ptr + offset, y, mask=valid)  # (BLOCK_D,)


@triton.jit(do_not_specialize=VARYING)
def scan_forward(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    z_ptr,
    maps_ptr,
    B_zeros_ptr,
    C_zeros_ptr,
    carry_ptr,
    state_ptr,
    out_ptr,
    y_ptr,
    last_state_ptr,
    boundaries_ptr,
    num_steps,
    length,
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
    MAP_BITS: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    FOLLOW_U: tl.constexpr,
    FOLLOW_DELTA: tl.constexpr,
    FOLLOW_B: tl.constexpr,
    FOLLOW_C: tl.constexpr,
    STATES_IN_MEMORY: tl.constexpr,
    EXACT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Compute the outputs of every path, and what the backward pass starts from.

    ``num_steps`` is the number of steps of a path, T. ``length`` is the number of positions, L, of partial paths, or
    None: every step has a position, and every position a step. Channels are contiguous in u, delta and z, states in B
    and C. Tensors made for the kernel are dense:

    - B_zeros, C_zeros: what padding steps of partial paths read of B and C, (N,), else None.
    - carry: state before each segment, (b, PATHS, segments, N, dim) float32; None: zeros.
    - state: (programs, N, BLOCK_D) float32, the memory of STATES_IN_MEMORY, else None.
    - out: (b, PATHS, L, dim), gated if there is z.
    - y: the same before gating, or None.
    - last_state: (b, PATHS, N, dim) float32.
    - boundaries: state before every CHUNK steps, (b, PATHS, ceil(T / CHUNK), N, dim) float32, or None.

    ``segment`` is the number of steps of a segment, ``blocks`` the number of blocks of channels over all groups. EXACT
    says that blocks and tiles go into a group's channels and into the steps without a rest, so that nothing is masked;
    WIDE that offsets within one row of batch elements and paths may need more than 31 bits.
    """
    PARTIAL: tl.constexpr = length is not None
    positions = num_steps if length is None else length
    # Move the pointers to this program's batch element, path, group and channels.
    g, d, lanes, k, s, b, _ = locate(blocks, group_dim, PATHS, segments, BLOCK_D, EXACT)
    map_id, backward = unpack_path(k, map_ids, reverse, PATHS, MAP_BITS)
    path = (map_id, backward, num_steps if maps_ptr is None else maps_ptr, num_steps)
    b, k = b.to(tl.int64), k.to(tl.int64)
    row = b * PATHS + k
    u_ptr += b * u_b + k * u_k + d  # (BLOCK_D,), as delta, out, y, z and A
    delta_ptr += b * delta_b + k * delta_k + d
    B_ptr += b * B_b + k * B_k + g.to(tl.int64) * B_g  # (), as C
    C_ptr += b * C_b + k * C_k + g.to(tl.int64) * C_g
    out_ptr += row * positions * dim + d
    if y_ptr is not None:
        y_ptr += row * positions * dim + d
    if z_ptr is not None:
        z_ptr += b * z_b + d

    # The states that the segment starts from, and what is constant in time. exp(delta A) is taken as a power of two.
    A_ptr += k * A_k + d.to(tl.int64) * A_d
    carry_offset = (row * segments + s) * N * dim + d  # (BLOCK_D,)
    rates, h = (), ()
    if STATES_IN_MEMORY:
        state_ptr += tl.program_id(0).to(tl.int64) * N * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
        for n in range(0, N):
            state = load_carry(carry_ptr, carry_offset + n * dim, lanes, BLOCK_D)  # (BLOCK_D,)
            tl.store(state_ptr + n * BLOCK_D, state)  # (BLOCK_D,)
    else:
        for n in tl.static_range(N):
            rates = rates + (tl.load(A_ptr + n * A_n, mask=lanes, other=0.0) * LOG2E,)  # (BLOCK_D,)
            h = h + (load_carry(carry_ptr, carry_offset + n * dim, lanes, BLOCK_D),)  # (BLOCK_D,)
    D = tl.zeros((BLOCK_D,), tl.float32)
    if D_ptr is not None:
        D = tl.load(D_ptr + k * D_k + d, mask=lanes, other=0.0)  # (BLOCK_D,)
    bias = tl.zeros((BLOCK_D,), tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + k * bias_k + d, mask=lanes, other=0.0)  # (BLOCK_D,)

    start = s * segment
    end = tl.minimum(start + segment, num_steps)
    last = None if EXACT else end  # of steps that are to be kept from going beyond it
    next_p = read_positions(start, last, path, STEPS)
    next_u = read_tile(u_ptr, u_l, next_p, start, last, lanes, FOLLOW_U, PARTIAL, WIDE, STEPS)
    next_delta = read_tile(delta_ptr, delta_l, next_p, start, last, lanes, FOLLOW_DELTA, PARTIAL, WIDE, STEPS)
    for t0 in range(start, end, STEPS):
        # Keep the state before each chunk. A lane may read what another has stored, hence the barriers: the compiler
        # chooses which lane has which channels for every load and store.
        if boundaries_ptr is not None:  # noqa: SIM102 (known when the kernel is compiled, unlike the next)
            if t0 % CHUNK == 0:
                offset = (row * tl.cdiv(num_steps, CHUNK) + t0 // CHUNK) * N * dim + d  # (BLOCK_D,)
                if STATES_IN_MEMORY:
                    tl.debug_barrier()
                    for n in range(0, N):
                        state = tl.load(state_ptr + n * BLOCK_D)  # (BLOCK_D,)
                        tl.store(boundaries_ptr + offset + n * dim, state, mask=lanes)  # (BLOCK_D,)
                else:
                    for n in tl.static_range(N):
                        tl.store(boundaries_ptr + offset + n * dim, h[n], mask=lanes)  # (BLOCK_D,)

        # This tile's u and delta have arrived; start to load the next one's before computing.
        p, u, delta = next_p, next_u, next_delta
        next_t0 = tl.minimum(t0 + STEPS, end - STEPS) if EXACT else t0 + STEPS
        next_p = read_positions(next_t0, last, path, STEPS)
        next_u = read_tile(u_ptr, u_l, next_p, next_t0, last, lanes, FOLLOW_U, PARTIAL, WIDE, STEPS)
        next_delta = read_tile(delta_ptr, delta_l, next_p, next_t0, last, lanes, FOLLOW_DELTA, PARTIAL, WIDE, STEPS)
        if STATES_IN_MEMORY:
            # What does not depend on the state, for all steps of the tile: each a tuple of STEPS.
            steps, v, y, B_ptrs, C_ptrs = (), (), (), (), ()
            for j in tl.static_range(STEPS):
                t = t0 + j
                steps = steps + (step_size(delta[j], bias, is_before(t, last), SOFTPLUS),)
                x = u[j].to(tl.float32)
                v = v + (steps[j] * x,)
                y = y + (D * x,)
                B_ptrs = B_ptrs + (point_at(B_ptr, B_l, B_zeros_ptr, p[j], t, last, FOLLOW_B, WIDE),)
                C_ptrs = C_ptrs + (point_at(C_ptr, C_l, C_zeros_ptr, p[j], t, last, FOLLOW_C, WIDE),)
            tl.debug_barrier()
            # Then one state after the other through the tile, each read and stored once.
            for n in range(0, N):
                rate = tl.load(A_ptr + n * A_n, mask=lanes, other=0.0) * LOG2E  # (BLOCK_D,)
                state = tl.load(state_ptr + n * BLOCK_D)  # (BLOCK_D,)
                sums = ()
                for j in tl.static_range(STEPS):
                    state, share = advance(state, steps[j], rate, v[j], B_ptrs[j] + n, C_ptrs[j] + n)
                    sums = sums + (y[j] + share,)
                y = sums
                tl.store(state_ptr + n * BLOCK_D, state)  # (BLOCK_D,)
            for j in tl.static_range(STEPS):
                written = without_padding(lanes, p[j], PARTIAL)  # (BLOCK_D,)
                store_output(y[j], p[j], z_ptr, z_l, y_ptr, out_ptr, dim, written, is_before(t0 + j, last), WIDE)
        else:
            # One step after the other, all states of a step at once.
            for j in tl.static_range(STEPS):
                t = t0 + j
                B_t_ptr = point_at(B_ptr, B_l, B_zeros_ptr, p[j], t, last, FOLLOW_B, WIDE)
                C_t_ptr = point_at(C_ptr, C_l, C_zeros_ptr, p[j], t, last, FOLLOW_C, WIDE)
                x = u[j].to(tl.float32)
                step = step_size(delta[j], bias, is_before(t, last), SOFTPLUS)
                v = step * x
                y = D * x
                states = ()
                for n in tl.static_range(N):
                    state, share = advance(h[n], step, rates[n], v, B_t_ptr + n, C_t_ptr + n)
                    y += share
                    states = states + (state,)
                h = states
                written = without_padding(lanes, p[j], PARTIAL)  # (BLOCK_D,)
                store_output(y, p[j], z_ptr, z_l, y_ptr, out_ptr, dim, written, is_before(t, last), WIDE)

    # The program of the last segment has the last state.
    if s == segments - 1:
        if STATES_IN_MEMORY:
            tl.debug_barrier()
            for n in range(0, N):
                state = tl.load(state_ptr + n * BLOCK_D)  # (BLOCK_D,)
                tl.store(last_state_ptr + (row * N + n) * dim + d, state, mask=lanes)  # (BLOCK_D,)
        else:
            for n in tl.static_range(N):
                tl.store(last_state_ptr + (row * N + n) * dim + d, h[n], mask=lanes)  # (BLOCK_D,)
