"""Triton kernels of the root-mean-square norm. A program takes ROWS rows at a time, whole.

Names follow the rule in ``mmvim/ops/selective_scan/triton/tiles.py``; ``c`` are channels here.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=('rows',))
def norm_forward(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    scale_ptr,
    rows,
    channels,
    eps,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute y = s * scale * weight, where s = x + residual and scale = 1 / sqrt(mean(s^2) + eps).

    All are (rows, channels) and dense, scale is (rows,) float32. residual and total (which gets s) may be None.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    c = tl.arange(0, BLOCK_C)[None, :]  # (1, BLOCK_C)
    valid = (row < rows)[:, None] & (c < channels)
    offset = row.to(tl.int64)[:, None] * channels + c  # (ROWS, BLOCK_C)
    s = tl.load(x_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (ROWS, BLOCK_C)
    if residual_ptr is not None:
        s += tl.load(residual_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (ROWS, BLOCK_C)
        s = s.to(total_ptr.dtype.element_ty)  # what is normalised is what the rest of the model sees
        tl.store(total_ptr + offset, s, mask=valid)  # (ROWS, BLOCK_C)
        s = s.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(s * s, axis=1) / channels + eps)  # (ROWS,)
    tl.store(scale_ptr + row, scale, mask=row < rows)  # (ROWS,)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)  # (1, BLOCK_C)
    tl.store(y_ptr + offset, s * scale[:, None] * weight, mask=valid)  # (ROWS, BLOCK_C)


@triton.jit(do_not_specialize=('rows', 'programs'))
def norm_backward(
    dy_ptr,
    dtotal_ptr,
    total_ptr,
    weight_ptr,
    scale_ptr,
    dx_ptr,
    dresidual_ptr,
    dweight_ptr,
    rows,
    channels,
    programs,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute the gradients of x and residual, and each program's share of that of the weight.

    - total: s. dtotal: gradient of s from elsewhere, or None.
    - dresidual: None if it would equal dx.
    - dweight: (programs, channels) float32.
    """
    c = tl.arange(0, BLOCK_C)[None, :]  # (1, BLOCK_C)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)  # (1, BLOCK_C)
    sums = tl.zeros((ROWS, BLOCK_C), tl.float32)
    # The number of programs does not grow with that of rows: each takes every programs-th block of them.
    for first in range(tl.program_id(0) * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)  # (ROWS,)
        valid = (row < rows)[:, None] & (c < channels)
        offset = row.to(tl.int64)[:, None] * channels + c  # (ROWS, BLOCK_C)
        s = tl.load(total_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (ROWS, BLOCK_C)
        scale = tl.load(scale_ptr + row, mask=row < rows, other=0.0)[:, None]  # (ROWS, 1)
        dy = tl.load(dy_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (ROWS, BLOCK_C)
        sums += dy * s * scale
        dy = dy * weight
        mean = tl.sum(dy * s, axis=1)[:, None] / channels  # (ROWS, 1)
        dx = scale * (dy - s * scale * scale * mean)
        if dtotal_ptr is not None:
            dx += tl.load(dtotal_ptr + offset, mask=valid, other=0.0).to(tl.float32)  # (ROWS, BLOCK_C)
        tl.store(dx_ptr + offset, dx, mask=valid)  # (ROWS, BLOCK_C)
        if dresidual_ptr is not None:
            tl.store(dresidual_ptr + offset, dx, mask=valid)  # (ROWS, BLOCK_C)
    tl.store(
        dweight_ptr + tl.program_id(0) * channels + tl.arange(0, BLOCK_C),
        tl.sum(sums, axis=0),  # (BLOCK_C,)
        mask=tl.arange(0, BLOCK_C) < channels,
    )
