"""The operators ``mmvim::conv_silu_fwd`` and ``mmvim::conv_silu_bwd``, whichever backend serves them.

Nothing but the inputs is saved for the backward pass, so the backend, named or 'auto', is found when either runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmvim.ops.backends import PLAIN, Backends
from mmvim.ops.define import define_operator, refuse_second_derivative, register_derivative

BACKENDS = Backends('short convolution')

_INPUTS = 'Tensor x, Tensor weight, Tensor? bias, int[] left, str backend'


class Implementation(NamedTuple):
    """What a backend of the convolution is made of.

    Attributes:
        forward: From x (B, L, D), weight (K, D, I), bias (K, D) or None and left (K numbers): (B, K, L, D), contiguous,
            in the dtype of x.
        backward: From the gradient and the same: those of x, weight and bias, contiguous, in their dtypes. None for the
            reference, which autograd differentiates.
        lay_out: Returns x in the memory order that both passes read, copied where it has another one. Where gradients
            are wanted it is called before the operator, which then saves that copy instead of making it again in the
            backward pass. Defaults to None: no order is needed.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]] | None
    lay_out: Callable[[Tensor], Tensor] | None = None


def _serving(backend: str, x: Tensor, weight: Tensor) -> Implementation:
    return BACKENDS.serving(backend, x.device.type, x, weight)


def _run_forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], backend: str) -> Tensor:
    if x.numel() == 0:
        return _fake_forward(x, weight, bias, left, backend)
    return _serving(backend, x, weight).forward(x, weight, bias, left)


def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], backend: str) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], *x.shape[1:]))


def _run_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        dx, dweight, dbias = _fake_backward(grad, x, weight, bias, left, backend)
        return dx, dweight.zero_(), dbias.zero_()
    # Autograd differentiates the reference by itself, but not where an exported program runs it.
    backward = _serving(backend, x, weight).backward or BACKENDS[PLAIN].implementation.backward
    return backward(grad, x, weight, bias, left)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int], backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), grad_bias


conv_silu_fwd = define_operator(f'conv_silu_fwd({_INPUTS}) -> Tensor', _run_forward, _fake_forward)
conv_silu_bwd = define_operator(
    f'conv_silu_bwd(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)', _run_backward, _fake_backward
)


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    *tensors, ctx.left, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = conv_silu_bwd(grad, x, weight, bias, ctx.left, ctx.backend)
    return grad_x, grad_weight, None if bias is None else grad_bias, None, None


register_derivative('conv_silu_fwd', _differentiate, _setup_context)
refuse_second_derivative('conv_silu_bwd', 'short convolution')


# As PyTorch counts convolutions: two operations a tap; activations are not counted.
@register_flop_formula(torch.ops.mmvim.conv_silu_fwd)
def _count_forward(x, weight, *_, out_shape=None, **__) -> int:
    return 2 * x[0] * x[1] * weight[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.mmvim.conv_silu_bwd)
def _count_backward(grad, *inputs, out_shape=None, **__) -> int:
    return 2 * _count_forward(*inputs)
