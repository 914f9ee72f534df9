"""Add up what the programs of the scan's kernels have left."""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import (
    VARYING,
    gradient_of_gate,
    position,
    sigmoid,
    unpack_path,
    without_padding,
)


@triton.jit
def locate_positions(length, dim, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return a program's batch element, positions (BLOCK_L, 1), channels (1, BLOCK_D), and mask of those that exist."""
    pid = tl.program_id(0)
    blocks_d, blocks_l = tl.cdiv(dim, BLOCK_D), tl.cdiv(length, BLOCK_L)
    d = (pid % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]  # (1, BLOCK_D)
    p = ((pid // blocks_d) % blocks_l) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]  # (BLOCK_L, 1)
    b = (pid // blocks_d // blocks_l).to(tl.int64)
    valid = (p < length) & (d < dim)
    return b, p.to(tl.int64), d, valid


@triton.jit(do_not_specialize=VARYING)
def merge_paths(
    x_ptr,
    z_ptr,
    out_ptr,
    y_ptr,
    length,
    dim,
    z_b,
    z_l,
    PATHS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum over the paths in float32; what each has left was rounded to the dtype of x before.

    - x: (b, PATHS, length, dim). z: (b, dim, length) with channels contiguous, or None.
    - out: (b, length, dim), the sum, gated if there is z. y: (b, length, dim), the sum before gating, or None.
    """
    # A program has BLOCK_L positions of BLOCK_D channels.
    b, p, d, valid = locate_positions(length, dim, BLOCK_L, BLOCK_D)
    total = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    for k in tl.static_range(PATHS):
        x = tl.load(x_ptr + ((b * PATHS + k) * length + p) * dim + d, mask=valid, other=0.0)  # (BLOCK_L, BLOCK_D)
        total += x.to(tl.float32)
    offset = (b * length + p) * dim + d
    if y_ptr is not None:
        tl.store(y_ptr + offset, total, mask=valid)  # (BLOCK_L, BLOCK_D)
    if z_ptr is not None:
        z = tl.load(z_ptr + b * z_b + p * z_l + d, mask=valid, other=0.0).to(tl.float32)  # (BLOCK_L, BLOCK_D)
        total = total * z * sigmoid(z)
    tl.store(out_ptr + offset, total, mask=valid)  # (BLOCK_L, BLOCK_D)


@triton.jit(do_not_specialize=VARYING)
def gate_gradient(
    dout_ptr,
    z_ptr,
    y_ptr,
    dz_ptr,
    length,
    dim,
    dout_b,
    dout_l,
    z_b,
    z_l,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Find the gradient of the gate of summed paths, none of which may come to every position.

    - dout: gradient of the gated sum, (b, dim, length). z: (b, dim, length). Channels are contiguous in both.
    - y: the sum before gating, (b, length, dim). dz: (b, length, dim).
    """
    # A program has BLOCK_L positions of BLOCK_D channels.
    b, p, d, valid = locate_positions(length, dim, BLOCK_L, BLOCK_D)
    grad = tl.load(dout_ptr + b * dout_b + p * dout_l + d, mask=valid, other=0.0).to(tl.float32)  # (BLOCK_L, BLOCK_D)
    z = tl.load(z_ptr + b * z_b + p * z_l + d, mask=valid, other=0.0).to(tl.float32)  # (BLOCK_L, BLOCK_D)
    offset = (b * length + p) * dim + d
    y = tl.load(y_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (BLOCK_L, BLOCK_D)
    tl.store(dz_ptr + offset, gradient_of_gate(grad, y, z, sigmoid(z)), mask=valid)  # (BLOCK_L, BLOCK_D)


@triton.jit(do_not_specialize=VARYING)
def collect_projections(
    x_ptr,
    maps_ptr,
    out_ptr,
    num_steps,
    length,
    blocks,
    map_ids,
    reverse,
    PATHS: tl.constexpr,
    MAP_BITS: tl.constexpr,
    GROUPS: tl.constexpr,
    N: tl.constexpr,
    FOLLOW: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Sum the gradient of B or C over blocks of channels, and bring it from the order of steps to that of positions.

    - x: (b, PATHS, GROUPS, blocks, ceil(T / STEPS), N, STEPS) float32.
    - out: (b, PATHS, GROUPS, L, N), of partial paths zero where no step may come; T instead of L without FOLLOW.
    """
    PADDED: tl.constexpr = FOLLOW and length is not None
    columns = length if PADDED else num_steps
    # A program has BLOCK_L steps of all states of one (batch element, path, group).
    pid = tl.program_id(0)
    tiles = tl.cdiv(num_steps, BLOCK_L)
    row = (pid // tiles).to(tl.int64)
    map_id, backward = unpack_path((row // GROUPS % PATHS).to(tl.int32), map_ids, reverse, PATHS, MAP_BITS)
    t = (pid % tiles) * BLOCK_L + tl.arange(0, BLOCK_L)  # (BLOCK_L,)
    n = tl.arange(0, BLOCK_N)[None, :]  # (1, BLOCK_N)
    valid = (t < num_steps)[:, None] & (n < N)
    p = position(
        t, num_steps, (map_id, backward, num_steps if maps_ptr is None else maps_ptr, num_steps), FOLLOW
    )  # (BLOCK_L,)
    steps = tl.cdiv(num_steps, STEPS) * STEPS
    offset = ((t // STEPS) * (N * STEPS) + t % STEPS)[:, None] + n * STEPS  # (BLOCK_L, BLOCK_N)
    total = tl.zeros((BLOCK_L, BLOCK_N), tl.float32)  # as each part
    for block in range(0, blocks):
        total += tl.load(x_ptr + (row * blocks + block) * steps * N + offset, mask=valid, other=0.0)
    valid = without_padding(valid, p[:, None], PADDED)  # (BLOCK_L, BLOCK_N)
    tl.store(out_ptr + (row * columns + p.to(tl.int64))[:, None] * N + n, total, mask=valid)  # (BLOCK_L, BLOCK_N)
