"""The torch.library operators of the short convolution with SiLU on GPUs; `mmvim.ops.conv_silu` calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from mmvim.ops.triton_host.device import device_guard
from mmvim.ops.triton_host.launch import Launch

MAX_TAPS, MAX_FILTERS = 16, 7
_WARPS = 4
# Tokens of a program. 32 in each would take up to 142 registers a thread, and spill some with channels that are no
# multiple of 16; where sums of filters are left for each program, twice as many programs would write twice as much.
_BLOCK_L = {'forward': 16, 'backward': 32, 'transposed': 16}


@torch.library.custom_op('mmvim::conv1d_silu_fwd', mutates_args=())
def conv_fwd(x: Tensor, weight: Tensor, bias: Optional[Tensor], left: Sequence[int]) -> Tensor:
    """SiLU of K convolutions of tokens (B, L, D) with filters (K, D, I); (B, K, L, D) in x's dtype."""
    with device_guard(x.device):
        launch, y = plan_forward(x, weight, bias, left)
        launch.run()
    return y


def plan_forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> tuple[Launch, Tensor]:
    """The launch of the forward pass, and the output that it fills."""
    from mmvim.ops.conv_silu.kernels import conv_forward

    x = _rows(x)
    y = x.new_empty((x.shape[0], len(left), *x.shape[1:]))
    arguments = {'y_ptr': y, **_inputs('forward', x, weight, bias, left)}
    return Launch(conv_forward, _programs('forward', x, len(left)), arguments, _WARPS, 'conv forward'), y


@conv_fwd.register_fake
def _(x, weight, bias, left):
    return x.new_empty((x.shape[0], len(left), *x.shape[1:]))


@torch.library.custom_op('mmvim::conv1d_silu_bwd', mutates_args=())
def conv_bwd(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], left: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias (empty where there is none)."""
    with device_guard(x.device):
        launches, dx, dweight, dbias = plan_backward(dy, x, weight, bias, left)
        for launch in launches:
            launch.run()
        return (
            dx,
            dweight.sum((0, 1)).to(weight.dtype),
            x.new_empty(0) if bias is None else dbias.sum((0, 1)).to(bias.dtype),
        )


def plan_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]
) -> tuple[list[Launch], Tensor, Tensor, Tensor | None]:
    """The launches of the backward pass, and what they fill: dx, and the shares of dweight and dbias to be summed."""
    from mmvim.ops.conv_silu.kernels import conv_backward, conv_transposed

    x = _rows(x)
    batch, length, dim = x.shape
    filters, _, taps = weight.shape
    blocks = -(-length // _BLOCK_L['backward'])
    dc, dx = dy.new_empty(dy.shape), x.new_empty(x.shape)
    dweight = x.new_empty((batch, blocks, filters, dim, taps), dtype=torch.float32)
    dbias = None if bias is None else x.new_empty((batch, blocks, filters, dim), dtype=torch.float32)
    launches = [
        Launch(
            conv_backward,
            _programs('backward', x, filters),
            {
                'dy_ptr': dy.contiguous(),
                'dc_ptr': dc,
                'dweight_ptr': dweight,
                'dbias_ptr': dbias,
                **_inputs('backward', x, weight, bias, left),
            },
            _WARPS,
            'conv backward',
        ),
        Launch(
            conv_transposed,
            _programs('transposed', x, 1),
            {'dc_ptr': dc, 'dx_ptr': dx, **_inputs('transposed', None, weight, None, left), 'length': length},
            _WARPS,
            'conv transposed',
        ),
    ]
    return launches, dx, dweight, dbias


@conv_bwd.register_fake
def _(dy, x, weight, bias, left):
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        x.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


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


def _inputs(kernel: str, x: Tensor | None, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> dict[str, Any]:
    """What a kernel reads, as its arguments."""
    dim, taps = weight.shape[1:]
    found = {
        'weight_ptr': weight.contiguous(),
        'dim': dim,
        'left': _packed(left),
        'FILTERS': len(left),
        'TAPS': taps,
        'BLOCK_L': _BLOCK_L[kernel],
        'BLOCK_D': _block_d(dim),
    }
    if x is not None:
        found |= {
            'x_ptr': x,
            'bias_ptr': None if bias is None else bias.contiguous(),
            'length': x.shape[1],
            'x_b': x.stride(0),
            'x_l': x.stride(1),
        }
    return found


def _block_d(dim: int) -> int:
    return 64 if dim > 32 else 32


def _programs(kernel: str, x: Tensor, filters: int) -> int:
    batch, length, dim = x.shape
    return batch * filters * -(-length // _BLOCK_L[kernel]) * -(-dim // _block_d(dim))
