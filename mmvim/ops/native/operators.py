"""What PyTorch must know of the C++ operators: shapes, derivatives and FLOPs. Called once the library is loaded."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmvim.ops.selective_scan.arguments import TENSORS
from mmvim.ops.selective_scan.autograd import differentiate
from mmvim.ops.selective_scan.flops import count_flops


@functools.cache
def register() -> None:
    """Describe ``torch.ops.mmvim_native``."""
    chunk, lanes = torch.ops.mmvim_native.layout()

    @torch.library.register_fake('mmvim_native::scan_forward')
    def _(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        maps,
        map_ids,
        reverse,
        follow,
        delta_softplus,
        stack,
        out_dtype,
        save,
    ):
        batch, _, dim, length = u.shape
        paths, d_state, groups = len(map_ids), A.shape[-1], B.shape[2]
        lead = (batch, paths) if stack else (batch,)
        out = u.new_empty((*lead, length, dim), dtype=out_dtype).transpose(-1, -2)
        blocks = groups * -(-(dim // groups) // lanes)
        last_state = A.new_empty((batch, paths, d_state, dim), dtype=torch.float32).transpose(-1, -2)
        boundaries = (batch if save else 0, paths, blocks, -(-length // chunk), d_state, lanes)
        return out, last_state, A.new_empty(boundaries, dtype=torch.float32)

    @torch.library.register_fake('mmvim_native::scan_backward')
    def _(grad_out, grad_last, *inputs):
        return tuple(_gradient_of(name, x) for name, x in zip(TENSORS[:-1], inputs, strict=False))

    @torch.library.register_fake('mmvim_native::conv_silu_forward')
    def _(x, weight, bias, left):
        return x.new_empty((x.shape[0], weight.shape[0], x.shape[1], x.shape[2]))

    @torch.library.register_fake('mmvim_native::conv_silu_backward')
    def _(grad, x, weight, bias, left):
        return (
            x.new_empty(x.shape),
            weight.new_empty(weight.shape, dtype=torch.float32),
            weight.new_empty((0,) if bias is None else bias.shape, dtype=torch.float32),
        )

    torch.library.register_autograd('mmvim_native::conv_silu_forward', _conv_backward, setup_context=_conv_context)
    torch.library.register_autograd('mmvim_native::conv_silu_backward', _no_second_derivative)
    differentiate('mmvim_native::scan_forward', 'mmvim_native::scan_backward', _gradients)
    count_flops(torch.ops.mmvim_native.scan_forward, torch.ops.mmvim_native.scan_backward, first_input=2)

    # As PyTorch counts convolutions: two operations a tap; activations are not counted.
    @register_flop_formula(torch.ops.mmvim_native.conv_silu_forward)
    def _(x, weight, *_, out_shape=None, **__) -> int:
        return 2 * x[0] * x[1] * weight[0] * weight[1] * weight[2]

    @register_flop_formula(torch.ops.mmvim_native.conv_silu_backward)
    def _(grad, x, weight, *_, out_shape=None, **__) -> int:
        return 4 * x[0] * x[1] * weight[0] * weight[1] * weight[2]


def _gradient_of(name: str, x: Tensor | None) -> Tensor:
    """An empty tensor laid out as the operator lays out that gradient."""
    if x is None:
        return torch.empty(0)
    if name not in ('D', 'delta_bias'):  # the last axis but one, channels or states, is contiguous
        return x.new_empty((*x.shape[:-2], x.shape[-1], x.shape[-2]), dtype=torch.float32).transpose(-1, -2)
    return x.new_empty(x.shape, dtype=torch.float32)


def _gradients(grad_out, grad_last_state, kept, tensors, flags):
    return torch.ops.mmvim_native.scan_backward(grad_out, grad_last_state, *tensors, *flags, *kept)


def _conv_context(ctx, inputs, output) -> None:
    *tensors, ctx.left = inputs
    ctx.save_for_backward(*tensors)


def _conv_backward(ctx, grad):
    x, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = torch.ops.mmvim_native.conv_silu_backward(grad, x, weight, bias, ctx.left)
    return grad_x, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype), None


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        'mmvim_native::conv_silu_backward has no autograd formula: second derivatives are not '
        "implemented in C++; backend='torch' has them"
    )
