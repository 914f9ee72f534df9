"""The operators ``mmvim::bi_wkv_fwd`` and ``mmvim::bi_wkv_bwd``, whichever backend serves them.

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

BACKENDS = Backends('bidirectional WKV')

_INPUTS = 'Tensor decay, Tensor bonus, Tensor k, Tensor v, bool published, str backend'


class Implementation(NamedTuple):
    """What a backend of the bidirectional WKV is made of.

    Attributes:
        forward: From decay and bonus (C,) in the dtype of the arithmetic, k and v (B, T, C) in one dtype and whether to
            reproduce the published kernel: the output (B, T, C), contiguous, in the dtype of k.
        backward: From the gradient and the same: those of decay, bonus, k and v, contiguous, in their dtypes. None for
            the reference, which autograd differentiates.
        lay_out: Returns k or v in the memory order that both passes read, copied where it has another one. Where
            gradients are wanted it is called before the operator, which then saves that copy instead of making it again
            in the backward pass. Defaults to None: no order is needed.
    """

    forward: Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor, Tensor]] | None
    lay_out: Callable[[Tensor], Tensor] | None = None


def _run_forward(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool, backend: str) -> Tensor:
    if k.numel() == 0:
        return k.new_empty(k.shape)
    return BACKENDS.serving(backend, k.device.type, decay, k).forward(decay, bonus, k, v, published)


def _fake_forward(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool, backend: str) -> Tensor:
    return k.new_empty(k.shape)


def _run_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if k.numel() == 0:
        return decay.new_zeros(decay.shape), bonus.new_zeros(bonus.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    # Autograd differentiates the reference by itself, but not where an exported program runs it.
    backward = BACKENDS.serving(backend, k.device.type, decay, k).backward or BACKENDS[PLAIN].implementation.backward
    return backward(grad, decay, bonus, k, v, published)


def _fake_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return decay.new_empty(decay.shape), bonus.new_empty(bonus.shape), k.new_empty(k.shape), v.new_empty(v.shape)


bi_wkv_fwd = define_operator(f'bi_wkv_fwd({_INPUTS}) -> Tensor', _run_forward, _fake_forward)
bi_wkv_bwd = define_operator(
    f'bi_wkv_bwd(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)', _run_backward, _fake_backward
)


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    *tensors, ctx.published, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *bi_wkv_bwd(grad, *ctx.saved_tensors, ctx.published, ctx.backend), None, None


register_derivative('bi_wkv_fwd', _differentiate, _setup_context)
refuse_second_derivative('bi_wkv_bwd', 'bidirectional WKV')


# The paper's own count (https://arxiv.org/abs/2403.02308, section 3.3): 13 operations a token and channel. The backward
# pass counts as twice that, and once more for the sums that it computes again.
@register_flop_formula(torch.ops.mmvim.bi_wkv_fwd)
def _count_forward(decay, bonus, k, *_, out_shape=None, **__) -> int:
    return 13 * k[0] * k[1] * k[2]


@register_flop_formula(torch.ops.mmvim.bi_wkv_bwd)
def _count_backward(grad, *inputs, out_shape=None, **__) -> int:
    return 3 * _count_forward(*inputs)
