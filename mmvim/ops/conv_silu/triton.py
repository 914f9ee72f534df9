"""The short convolution with SiLU in Triton, for GPUs; the kernels are in ``kernels.py``.

An x whose channels do not lie side by side is copied, once for both passes (:func:`lay_out`), and a gradient of the
output that is not contiguous; filters and biases, too, which are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmvim.ops.conv_silu.operators import Implementation
from mmvim.ops.triton_host.device import device_guard
from mmvim.ops.triton_host.launch import Launch

MAX_TAPS, MAX_FILTERS = 16, 7
_WARPS = 4
# Tokens of a program. 32 in each would take up to 142 registers a thread, and spill some with channels that are no
# multiple of 16; where sums of filters are left for each program, twice as many programs would write twice as much.
_BLOCK_L = {'forward': 16, 'backward': 32, 'transposed': 16}


def forward_launch(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> tuple[Launch, Tensor]:
    """Return the launch of the forward pass, and the output that it fills."""
    from mmvim.ops.conv_silu.kernels import conv_forward

    x = lay_out(x)
    y = x.new_empty((x.shape[0], len(left), *x.shape[1:]))
    arguments = {'y_ptr': y, **_inputs('forward', x, weight, bias, left)}
    return Launch(conv_forward, _programs('forward', x, len(left)), arguments, _WARPS, 'conv forward'), y


def backward_launches(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]
) -> tuple[list[Launch], Tensor, Tensor, Tensor | None]:
    """Return the launches of the backward pass and what they fill: dx, and shares of dweight and dbias to be summed."""
    from mmvim.ops.conv_silu.kernels import conv_backward, conv_transposed

    x = lay_out(x)
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


def can_run(x: Tensor, weight: Tensor) -> bool:
    """Return whether the kernels take a call."""
    filters, _, taps = weight.shape
    narrow = torch.float64 not in (x.dtype, weight.dtype)
    return narrow and x.numel() > 0 and taps <= MAX_TAPS and filters <= MAX_FILTERS


def lay_out(x: Tensor) -> Tensor:
    """Return ``x`` (B, L, D) with channels contiguous, as it is or a copy; a part of a wider tensor is as it is."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _packed(left: Sequence[int]) -> int:
    return sum(n << (4 * k) for k, n in enumerate(left))


def _inputs(kernel: str, x: Tensor | None, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> dict[str, Any]:
    """Return what a kernel reads, as its arguments."""
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


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> Tensor:
    """Run the forward pass; arguments and result as of :func:`mmvim.ops.conv_silu.conv1d_silu`."""
    with device_guard(x.device):
        launch, y = forward_launch(x, weight, bias, left)
        launch.run()
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward pass: gradients of x, weight and bias (empty where there is none)."""
    with device_guard(x.device):
        launches, grad_x, weight_parts, bias_parts = backward_launches(grad, x, weight, bias, left)
        for launch in launches:
            launch.run()
        grad_bias = weight.new_empty(0)
        if bias is not None and bias_parts is not None:
            grad_bias = bias_parts.sum((0, 1)).to(bias.dtype)
        return grad_x, weight_parts.sum((0, 1)).to(weight.dtype), grad_bias


IMPLEMENTATION = Implementation(forward, backward, lay_out)
