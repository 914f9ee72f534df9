"""Triton kernels of the short depthwise convolution with SiLU. A program takes BLOCK_L tokens of BLOCK_D channels.

Names follow the rule in ``mmvim/ops/selective_scan/triton/tiles.py``; ``k`` is a filter here. ``left`` holds four bits
for each filter: how many of its taps are to the left of the token that it computes.
"""

import triton
import triton.language as tl


@triton.jit
def locate(length, dim, FILTERS: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return a program's channels (1, BLOCK_D), tokens (BLOCK_L, 1), block of tokens, filter and batch element."""
    pid = tl.program_id(0)
    blocks_d, blocks_l = tl.cdiv(dim, BLOCK_D), tl.cdiv(length, BLOCK_L)
    d = (pid % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]  # (1, BLOCK_D)
    row = pid // blocks_d
    block = row % blocks_l
    t = block * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]  # (BLOCK_L, 1)
    row = row // blocks_l
    return d, t, block, row % FILTERS, (row // FILTERS).to(tl.int64)


@triton.jit
def convolve(
    x_ptr,
    weight_ptr,
    bias_ptr,
    k,
    shift,
    t,
    d,
    length,
    dim,
    x_l,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return bias[k] + sum over i of weight[k, d, i] x[t + i - shift], (BLOCK_L, BLOCK_D) float32."""
    total = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + k * dim + d, mask=d < dim, other=0.0).to(tl.float32)  # (1, BLOCK_D)
    for i in tl.static_range(TAPS):
        s = t + i - shift
        weight = tl.load(weight_ptr + (k * dim + d) * TAPS + i, mask=d < dim, other=0.0).to(tl.float32)  # (1, BLOCK_D)
        seen = (s >= 0) & (s < length) & (d < dim)
        x = tl.load(x_ptr + s.to(tl.int64) * x_l + d, mask=seen, other=0.0)  # (BLOCK_L, BLOCK_D)
        total += weight * x.to(tl.float32)
    return total


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)); exp2 overflows to infinity, whose reciprocal is the right result, 0."""
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit(do_not_specialize=('length', 'left'))
def conv_forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    length,
    dim,
    x_b,
    x_l,
    left,
    FILTERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compute y (b, FILTERS, length, dim), dense, from x (b, length, dim) and weight (FILTERS, dim, TAPS).

    Channels are contiguous in x; bias (FILTERS, dim) may be None.
    """
    d, t, _, k, b = locate(length, dim, FILTERS, BLOCK_L, BLOCK_D)
    x_ptr += b * x_b
    shift = (left >> (4 * k)) & 15
    value = convolve(x_ptr, weight_ptr, bias_ptr, k, shift, t, d, length, dim, x_l, TAPS, BLOCK_L, BLOCK_D)
    valid = (t < length) & (d < dim)
    y_offset = ((b * FILTERS + k) * length + t) * dim + d  # (BLOCK_L, BLOCK_D), as value
    tl.store(y_ptr + y_offset, value * sigmoid(value), mask=valid)


@triton.jit(do_not_specialize=('length', 'left'))
def conv_backward(
    dy_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dc_ptr,
    dweight_ptr,
    dbias_ptr,
    length,
    dim,
    x_b,
    x_l,
    left,
    FILTERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compute the gradient before SiLU, and each program's share of those of weight and bias.

    - dy, dc: (b, FILTERS, length, dim), dense.
    - dweight: (b, blocks of tokens, FILTERS, dim, TAPS), dbias: (b, blocks of tokens, FILTERS, dim) or None, float32.
    """
    # Back through SiLU, whose input is computed again.
    d, t, block, k, b = locate(length, dim, FILTERS, BLOCK_L, BLOCK_D)
    shift = (left >> (4 * k)) & 15
    x_ptr += b * x_b
    valid = (t < length) & (d < dim)
    offset = ((b * FILTERS + k) * length + t) * dim + d
    dc = tl.load(dy_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (BLOCK_L, BLOCK_D)
    value = convolve(x_ptr, weight_ptr, bias_ptr, k, shift, t, d, length, dim, x_l, TAPS, BLOCK_L, BLOCK_D)
    slope = sigmoid(value)
    dc = dc * slope * (1.0 + value * (1.0 - slope))
    tl.store(dc_ptr + offset, dc, mask=valid)  # (BLOCK_L, BLOCK_D)

    # Sums over this program's tokens.
    lane = tl.program_id(0) % tl.cdiv(dim, BLOCK_D) * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    row = ((b * tl.cdiv(length, BLOCK_L) + block) * FILTERS + k) * dim + lane
    if dbias_ptr is not None:
        tl.store(dbias_ptr + row, tl.sum(dc, axis=0), mask=lane < dim)  # (BLOCK_D,)
    for i in tl.static_range(TAPS):
        s = t + i - shift
        seen = (s >= 0) & (s < length) & valid
        x = tl.load(x_ptr + s.to(tl.int64) * x_l + d, mask=seen, other=0.0).to(tl.float32)  # (BLOCK_L, BLOCK_D)
        tl.store(dweight_ptr + row * TAPS + i, tl.sum(dc * x, axis=0), mask=lane < dim)  # (BLOCK_D,)


@triton.jit(do_not_specialize=('length', 'left'))
def conv_transposed(
    dc_ptr,
    weight_ptr,
    dx_ptr,
    length,
    dim,
    left,
    FILTERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compute dx (b, length, dim) from dc (b, FILTERS, length, dim): what filters pass back to the tokens they saw."""
    d, t, _, _, b = locate(length, dim, 1, BLOCK_L, BLOCK_D)
    total = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    for k in tl.static_range(FILTERS):
        shift = (left >> (4 * k)) & 15
        for i in tl.static_range(TAPS):
            s = t - i + shift
            weight = tl.load(weight_ptr + (k * dim + d) * TAPS + i, mask=d < dim, other=0.0)  # (1, BLOCK_D)
            seen = (s >= 0) & (s < length) & (d < dim)
            dc_offset = ((b * FILTERS + k) * length + s) * dim + d  # (BLOCK_L, BLOCK_D), as dc
            dc = tl.load(dc_ptr + dc_offset, mask=seen, other=0.0)
            total += weight.to(tl.float32) * dc.to(tl.float32)
    tl.store(dx_ptr + (b * length + t) * dim + d, total, mask=(t < length) & (d < dim))  # (BLOCK_L, BLOCK_D)
