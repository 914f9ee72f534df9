"""Triton kernels of the root-mean-square norm. A program takes ROWS rows at a time, whole."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=('rows',))
def norm_forward(x, residual, weight, y, total, scale, rows, channels, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Y = s * scale * weight, s = x + residual, scale = 1 / sqrt(mean(s^2) + eps).

    All (rows, channels) and dense. residual, total (which gets s) may be None. scale: (rows,) float32.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK_C)[None, :]
    valid = (row < rows)[:, None] & (c < channels)
    place = row.to(tl.int64)[:, None] * channels + c
    s = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
    if residual is not None:
        s += tl.load(residual + place, mask=valid, other=0.0).to(tl.float32)
        s = s.to(total.dtype.element_ty)  # what the rest of the model sees is what is normalised
        tl.store(total + place, s, mask=valid)
        s = s.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(s * s, axis=1) / channels + eps)
    tl.store(scale + row, factor, mask=row < rows)
    w = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    tl.store(y + place, s * factor[:, None] * w, mask=valid)


@triton.jit(do_not_specialize=('rows', 'programs'))
def norm_backward(
    dy,
    dtotal,
    total,
    weight,
    scale,
    dx,
    dresidual,
    dweight,
    rows,
    channels,
    programs,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of x and residual, and each program's share of that of the weight, (programs, channels) float32.

    total: s. dtotal: gradient of s from elsewhere, or None. dresidual: None where it would equal dx.
    """
    c = tl.arange(0, BLOCK_C)[None, :]
    w = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    sums = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)
        valid = (row < rows)[:, None] & (c < channels)
        place = row.to(tl.int64)[:, None] * channels + c
        s = tl.load(total + place, mask=valid, other=0.0).to(tl.float32)
        factor = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        g = tl.load(dy + place, mask=valid, other=0.0).to(tl.float32)
        sums += g * s * factor
        g = g * w
        mean = tl.sum(g * s, axis=1)[:, None] / channels
        grad = factor * (g - s * factor * factor * mean)
        if dtotal is not None:
            grad += tl.load(dtotal + place, mask=valid, other=0.0).to(tl.float32)
        tl.store(dx + place, grad, mask=valid)
        if dresidual is not None:
            tl.store(dresidual + place, grad, mask=valid)
    tl.store(
        dweight + tl.program_id(0) * channels + tl.arange(0, BLOCK_C),
        tl.sum(sums, axis=0),
        mask=tl.arange(0, BLOCK_C) < channels,
    )
