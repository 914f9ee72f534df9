"""Add up what the programs have left."""

import triton
import triton.language as tl

from mmvim.ops.selective_scan.triton.tiles import path_of, position, sigmoid


@triton.jit(do_not_specialize=('L',))
def merge_paths(x, z, out, y, L, dim, z_b, z_l, PATHS: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sum over the paths in float32, rounded once.

    x: (b, PATHS, L, dim). z: (b, dim, L) with channels contiguous, or None. out: (b, L, dim), the sum, gated if there
    is z. y: (b, L, dim), the sum before gating, or None.
    """
    pid = tl.program_id(0)
    blocks_d, blocks_l = tl.cdiv(dim, BLOCK_D), tl.cdiv(L, BLOCK_L)
    d = (pid % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    t = ((pid // blocks_d) % blocks_l) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    b = (pid // blocks_d // blocks_l).to(tl.int64)
    valid = (t < L) & (d < dim)
    t = t.to(tl.int64)
    total = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    for k in tl.static_range(PATHS):
        total += tl.load(x + ((b * PATHS + k) * L + t) * dim + d, mask=valid, other=0.0).to(tl.float32)
    place = (b * L + t) * dim + d
    if y is not None:
        tl.store(y + place, total, mask=valid)
    if z is not None:
        gate = tl.load(z + b * z_b + t * z_l + d, mask=valid, other=0.0).to(tl.float32)
        total = total * gate * sigmoid(gate)
    tl.store(out + place, total, mask=valid)


@triton.jit(do_not_specialize=('L', 'blocks', 'map_ids', 'reverse'))
def collect_projections(
    x,
    maps,
    out,
    L,
    blocks,
    map_ids,
    reverse,
    PATHS: tl.constexpr,
    GROUPS: tl.constexpr,
    N: tl.constexpr,
    FOLLOW: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Sum over blocks of channels, from the order of steps to that of positions.

    x: (b, PATHS, GROUPS, blocks, ceil(L / STEPS), N, STEPS) float32. out: (b, PATHS, GROUPS, L, N).
    """
    pid = tl.program_id(0)
    tiles = tl.cdiv(L, BLOCK_L)
    row = (pid // tiles).to(tl.int64)
    map_id, backward = path_of((row // GROUPS % PATHS).to(tl.int32), map_ids, reverse)
    t = (pid % tiles) * BLOCK_L + tl.arange(0, BLOCK_L)
    n = tl.arange(0, BLOCK_N)[None, :]
    valid = (t < L)[:, None] & (n < N)
    p = position(t, L, L, map_id, backward, maps, FOLLOW)
    steps = tl.cdiv(L, STEPS) * STEPS
    place = ((t // STEPS) * (N * STEPS) + t % STEPS)[:, None] + n * STEPS
    total = tl.zeros((BLOCK_L, BLOCK_N), tl.float32)
    for block in range(0, blocks):
        total += tl.load(x + (row * blocks + block) * steps * N + place, mask=valid, other=0.0)
    tl.store(out + (row * L + p)[:, None] * N + n, total, mask=valid)
