"""The torch.library operators of the short convolution with SiLU on GPUs; `mmvim.ops.conv_silu` calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from mmvim.ops.fused.device import current

MAX_TAPS, MAX_FILTERS = 16, 7
_BLOCK_L = 32


@torch.library.custom_op('mmvim::conv1d_silu_fwd', mutates_args=())
def conv_fwd(x: Tensor, weight: Tensor, bias: Optional[Tensor], left: Sequence[int]) -> Tensor:
    """SiLU of K convolutions of tokens (B, L, D) with filters (K, D, I); (B, K, L, D) in x's dtype."""
    from mmvim.ops.fused.conv_triton import conv_forward
    x, weight, bias = _rows(x), weight.contiguous(), None if bias is None else bias.contiguous()
    batch, length, dim = x.shape
    y = x.new_empty((batch, len(left), length, dim))
    with current(x.device):
        conv_forward[_programs(x, len(left))](x, weight, bias, y, length, dim, x.stride(0), x.stride(1), _packed(left),
                                              FILTERS=len(left), **_sizes(weight))
    return y


@conv_fwd.register_fake
def _(x, weight, bias, left):
    return x.new_empty((x.shape[0], len(left), *x.shape[1:]))


@torch.library.custom_op('mmvim::conv1d_silu_bwd', mutates_args=())
def conv_bwd(dy: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], left: Sequence[int]
             ) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias (empty where there is none)."""
    from mmvim.ops.fused.conv_triton import conv_backward, conv_transposed
    dy, x, weight = dy.contiguous(), _rows(x), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    batch, length, dim = x.shape
    filters, _, taps = weight.shape
    blocks = -(-length // _BLOCK_L)
    dc, dx = dy.new_empty(dy.shape), x.new_empty(x.shape)
    dweight = x.new_empty((batch, blocks, filters, dim, taps), dtype=torch.float32)
    dbias = None if bias is None else x.new_empty((batch, blocks, filters, dim), dtype=torch.float32)
    with current(x.device):
        conv_backward[_programs(x, filters)](dy, x, weight, bias, dc, dweight, dbias, length, dim, x.stride(0),
                                             x.stride(1), _packed(left), FILTERS=filters, **_sizes(weight))
        conv_transposed[_programs(x, 1)](dc, weight, dx, length, dim, _packed(left), FILTERS=filters,
                                         **_sizes(weight))
    return (dx, dweight.sum((0, 1)).to(weight.dtype),
            x.new_empty(0) if bias is None else dbias.sum((0, 1)).to(bias.dtype))


@conv_bwd.register_fake
def _(dy, x, weight, bias, left):
    return (x.new_empty(x.shape), weight.new_empty(weight.shape),
            x.new_empty(0) if bias is None else bias.new_empty(bias.shape))


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, ctx.left = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx, dy):
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = torch.ops.mmvim.conv1d_silu_bwd(dy, x, weight, bias, ctx.left)
    return dx, dweight, None if bias is None else dbias, None


conv_fwd.register_autograd(_backward, setup_context=_setup_context)


def takes(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels can run this convolution."""
    return dtype != torch.float64 and x.numel() > 0 and weight.shape[-1] <= MAX_TAPS and weight.shape[0] <= MAX_FILTERS


def _rows(x: Tensor) -> Tensor:
    """`x` (B, L, D) with channels contiguous; a part of a wider tensor is taken as it is."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _packed(left: Sequence[int]) -> int:
    return sum(n << (4 * k) for k, n in enumerate(left))


def _sizes(weight: Tensor) -> dict[str, int]:
    return {'TAPS': weight.shape[2], 'BLOCK_L': _BLOCK_L, 'BLOCK_D': _block_d(weight.shape[1]), 'num_warps': 4}


def _block_d(dim: int) -> int:
    return 64 if dim > 32 else 32


def _programs(x: Tensor, filters: int) -> tuple[int]:
    batch, length, dim = x.shape
    return (batch * filters * -(-length // _BLOCK_L) * -(-dim // _block_d(dim)),)
