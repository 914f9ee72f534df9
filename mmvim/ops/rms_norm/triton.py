"""The torch.library operators of the norm on GPUs; ``mmvim.ops.rms_norm`` calls them.

The kernels read and write whole rows, one behind the other. Inputs and gradients that lie otherwise are copied, each
once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.define import autocast_dtype
from mmvim.ops.rms_norm.reference import add_rms_norm_reference
from mmvim.ops.triton_host.device import device_guard, why_not
from mmvim.ops.triton_host.launch import Launch

MAX_CHANNELS = 4096


def _grid(channels: int) -> tuple[int, int, int]:
    """Return the rows that a program takes at a time, the power of two that holds their channels, and its warps."""
    block = max(16, 1 << (channels - 1).bit_length())
    return max(1, 1024 // block), block, max(4, block // 512)  # at most 16 channels a thread, so that none are spilled


# The schemas are stated because not every PyTorch infers them from annotations that are not evaluated.
@torch.library.custom_op(
    'mmvim::rms_norm_fwd',
    mutates_args=(),
    schema='(Tensor x, Tensor? residual, Tensor weight, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor)',
)
def rms_norm_fwd(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised sum, the sum (empty without a residual), 1 / sqrt(mean square + eps), (rows,) float32."""
    if why_not(x.device.type):  # a program that was exported on a GPU runs elsewhere
        y, total = add_rms_norm_reference(x, residual, weight, eps)
        scale = (total.float().square().mean(-1) + eps).rsqrt().flatten()
        return y.to(dtype), x.new_empty(0) if residual is None else total, scale
    with device_guard(x.device):
        launch, results = forward_launch(x, residual, weight, eps, dtype)
        launch.run()
    return results


def forward_launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor]]:
    """Return the launch of the forward pass, and what it fills: y, the sum and the scale, see :func:`rms_norm_fwd`."""
    from mmvim.ops.rms_norm.kernels import norm_forward

    y, total, scale = _outputs(x, residual, dtype)
    rows, channels = scale.numel(), x.shape[-1]
    per_program, block, warps = _grid(channels)
    arguments = {
        'x_ptr': x.contiguous(),
        'residual_ptr': None if residual is None else residual.contiguous(),
        'weight_ptr': weight.contiguous(),
        'y_ptr': y,
        'total_ptr': None if residual is None else total,
        'scale_ptr': scale,
        'rows': rows,
        'channels': channels,
        'eps': eps,
        'ROWS': per_program,
        'BLOCK_C': block,
    }
    # Where a thread has one channel of a row, the sum of squares begins with two threads' products. If each rounded its
    # own one together with the sum, copies of one scale would differ, and which of them is stored would be chance.
    launch = Launch(norm_forward, -(-rows // per_program), arguments, warps, 'norm forward', fuse=False)
    return launch, (y, total, scale)


def _outputs(x: Tensor, residual: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    if residual is None:
        total = x.new_empty(0)
    else:
        total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype))
    rows = x.numel() // x.shape[-1]
    return x.new_empty(x.shape, dtype=dtype), total, x.new_empty(rows, dtype=torch.float32)


@rms_norm_fwd.register_fake
def _(x, residual, weight, eps, dtype):
    return _outputs(x, residual, dtype)


@torch.library.custom_op(
    'mmvim::rms_norm_bwd',
    mutates_args=(),
    schema='(Tensor dy, Tensor? dtotal, Tensor total, Tensor weight, Tensor scale, ScalarType dtype, '
    'ScalarType? residual_dtype) -> (Tensor, Tensor, Tensor)',
)
def rms_norm_bwd(
    dy: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    weight: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    residual_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of the residual (empty if there is none) and of the weight."""
    with device_guard(dy.device):
        launch, (dx, dresidual, dweight) = backward_launch(dy, dtotal, total, weight, scale, dtype, residual_dtype)
        launch.run()
        return dx, dresidual, dweight.sum(0).to(weight.dtype)


def backward_launch(
    dy: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    weight: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    residual_dtype: torch.dtype | None,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor]]:
    """Return the launch of the backward pass, and what it fills: dx, dresidual, and shares of dweight to be summed."""
    from mmvim.ops.rms_norm.kernels import norm_backward

    rows, channels = scale.numel(), total.shape[-1]
    per_program, block, warps = _grid(channels)
    # The number depends neither on a measurement nor on the machine, so that the sums repeat bit for bit.
    programs = min(512, -(-rows // per_program))
    dx = total.new_empty(total.shape, dtype=dtype)
    dresidual = total.new_empty(total.shape if residual_dtype else 0, dtype=residual_dtype or dtype)
    dweight = total.new_empty((programs, channels), dtype=torch.float32)
    arguments = {
        'dy_ptr': dy.contiguous(),
        'dtotal_ptr': None if dtotal is None else dtotal.contiguous(),
        'total_ptr': total.contiguous(),
        'weight_ptr': weight.contiguous(),
        'scale_ptr': scale,
        'dx_ptr': dx,
        'dresidual_ptr': dresidual if residual_dtype else None,
        'dweight_ptr': dweight,
        'rows': rows,
        'channels': channels,
        'programs': programs,
        'ROWS': per_program,
        'BLOCK_C': block,
    }
    # As forward: all threads of a row agree on its mean.
    launch = Launch(norm_backward, programs, arguments, warps, 'norm backward', fuse=False)
    return launch, (dx, dresidual, dweight)


@rms_norm_bwd.register_fake
def _(dy, dtotal, total, weight, scale, dtype, residual_dtype):
    return (
        total.new_empty(total.shape, dtype=dtype),
        total.new_empty(total.shape if residual_dtype else 0, dtype=residual_dtype or dtype),
        weight.new_empty(weight.shape),
    )


def _setup_context(ctx, inputs, output) -> None:
    x, residual, weight, *_ = inputs
    _, total, scale = output
    ctx.save_for_backward(x if residual is None else total, weight, scale)
    ctx.dtypes = x.dtype, None if residual is None else residual.dtype
    ctx.mark_non_differentiable(scale)
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dtotal, _dscale):
    total, weight, scale = ctx.saved_tensors
    dtype, residual_dtype = ctx.dtypes
    if residual_dtype is None:
        dtotal = None
    if dy is None:
        if dtotal is None:
            return (None,) * 5
        return dtotal.to(dtype), dtotal.to(residual_dtype), None, None, None
    dx, dresidual, dweight = torch.ops.mmvim.rms_norm_bwd(dy, dtotal, total, weight, scale, dtype, residual_dtype)
    return dx, None if residual_dtype is None else dresidual, dweight, None, None


rms_norm_fwd.register_autograd(_backward, setup_context=_setup_context)


def can_run(x: Tensor, residual: Tensor | None, weight: Tensor) -> bool:
    """Return whether the kernels take a call."""
    wide = torch.float64 in (x.dtype, weight.dtype, x.dtype if residual is None else residual.dtype)
    return not wide and x.numel() > 0 and x.shape[-1] <= MAX_CHANNELS


def add_rms_norm_triton(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Run :func:`mmvim.ops.rms_norm.add_rms_norm` in Triton."""
    dtype = (None if x.device.type == 'cpu' else autocast_dtype(x)) or weight.dtype
    if residual is None:  # x itself is saved then: what is copied for the forward pass serves the backward pass, too
        return torch.ops.mmvim.rms_norm_fwd(x.contiguous(), None, weight, eps, dtype)[0], x
    return torch.ops.mmvim.rms_norm_fwd(x, residual, weight, eps, dtype)[:2]
