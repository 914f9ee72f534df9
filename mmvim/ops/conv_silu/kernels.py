"""Triton kernels of the short depthwise convolution with SiLU. A program takes BLOCK_L tokens of BLOCK_D channels."""

import triton
import triton.language as tl


@triton.jit
def tile_of(L, dim, FILTERS: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Channels (1, BLOCK_D), tokens (BLOCK_L, 1), block of tokens, filter and batch element of a program."""
    pid = tl.program_id(0)
    blocks_d, blocks_l = tl.cdiv(dim, BLOCK_D), tl.cdiv(L, BLOCK_L)
    d = (pid % blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    row = pid // blocks_d
    block = row % blocks_l
    t = block * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    row = row // blocks_l
    return d, t, block, row % FILTERS, (row // FILTERS).to(tl.int64)


@triton.jit
def convolve(
    x, weight, bias, k, left, t, d, L, dim, x_l, TAPS: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr
):
    """bias[k] + sum over i of weight[k, d, i] x[t + i - left], float32."""
    total = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    if bias is not None:
        total += tl.load(bias + k * dim + d, mask=d < dim, other=0.0).to(tl.float32)
    for i in tl.static_range(TAPS):
        s = t + i - left
        w = tl.load(weight + (k * dim + d) * TAPS + i, mask=d < dim, other=0.0).to(tl.float32)
        seen = tl.load(x + s.to(tl.int64) * x_l + d, mask=(s >= 0) & (s < L) & (d < dim), other=0.0)
        total += w * seen.to(tl.float32)
    return total


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); exp2 overflows to infinity, whose reciprocal is the 0 that is right."""
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit(do_not_specialize=('L', 'left'))
def conv_forward(
    x,
    weight,
    bias,
    y,
    L,
    dim,
    x_b,
    x_l,
    left,
    FILTERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Y (b, FILTERS, L, dim), dense, from x (b, L, dim) with channels contiguous and weight (FILTERS, dim, TAPS).

    `left` holds four bits a filter.
    """
    d, t, _, k, b = tile_of(L, dim, FILTERS, BLOCK_L, BLOCK_D)
    value = convolve(x + b * x_b, weight, bias, k, (left >> (4 * k)) & 15, t, d, L, dim, x_l, TAPS, BLOCK_L, BLOCK_D)
    tl.store(y + ((b * FILTERS + k) * L + t) * dim + d, value * sigmoid(value), mask=(t < L) & (d < dim))


@triton.jit(do_not_specialize=('L', 'left'))
def conv_backward(
    dy,
    x,
    weight,
    bias,
    dc,
    dweight,
    dbias,
    L,
    dim,
    x_b,
    x_l,
    left,
    FILTERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient before SiLU, and each program's share of those of weight and bias.

    dy, dc: (b, FILTERS, L, dim), dense. dweight: (b, blocks of L, FILTERS, dim, TAPS), dbias: (b, blocks of L,
    FILTERS, dim), float32; dbias may be None.
    """
    d, t, block, k, b = tile_of(L, dim, FILTERS, BLOCK_L, BLOCK_D)
    shift = (left >> (4 * k)) & 15
    x += b * x_b
    valid = (t < L) & (d < dim)
    place = ((b * FILTERS + k) * L + t) * dim + d
    grad = tl.load(dy + place, mask=valid, other=0.0).to(tl.float32)
    value = convolve(x, weight, bias, k, shift, t, d, L, dim, x_l, TAPS, BLOCK_L, BLOCK_D)
    slope = sigmoid(value)
    grad = grad * slope * (1.0 + value * (1.0 - slope))
    tl.store(dc + place, grad, mask=valid)
    lane = tl.program_id(0) % tl.cdiv(dim, BLOCK_D) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = ((b * tl.cdiv(L, BLOCK_L) + block) * FILTERS + k) * dim + lane
    if dbias is not None:
        tl.store(dbias + row, tl.sum(grad, axis=0), mask=lane < dim)
    for i in tl.static_range(TAPS):
        s = t + i - shift
        seen = tl.load(x + s.to(tl.int64) * x_l + d, mask=(s >= 0) & (s < L) & valid, other=0.0).to(tl.float32)
        tl.store(dweight + row * TAPS + i, tl.sum(grad * seen, axis=0), mask=lane < dim)


@triton.jit(do_not_specialize=('L', 'left'))
def conv_transposed(
    dc,
    weight,
    dx,
    L,
    dim,
    left,
    FILTERS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Dx (b, L, dim) from dc (b, FILTERS, L, dim): what every filter that saw a token passes back to it."""
    d, t, _, _, b = tile_of(L, dim, 1, BLOCK_L, BLOCK_D)
    total = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    for k in tl.static_range(FILTERS):
        shift = (left >> (4 * k)) & 15
        for i in tl.static_range(TAPS):
            s = t - i + shift
            w = tl.load(weight + (k * dim + d) * TAPS + i, mask=d < dim, other=0.0).to(tl.float32)
            grad = tl.load(dc + ((b * FILTERS + k) * L + s) * dim + d, mask=(s >= 0) & (s < L) & (d < dim), other=0.0)
            total += w * grad.to(tl.float32)
    tl.store(dx + (b * L + t) * dim + d, total, mask=(t < L) & (d < dim))
