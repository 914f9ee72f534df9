"""The short convolution with SiLU in C++; the kernels are in ``mmvim/ops/native/conv_silu.h``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmvim.ops.conv_silu.operators import Implementation
from mmvim.ops.native.load import library


def can_run(x: Tensor, weight: Tensor) -> bool:
    """Return whether C++ takes a call: on a CPU, and not in float64."""
    return x.device.type == 'cpu' and torch.float64 not in (x.dtype, weight.dtype) and x.numel() > 0


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> Tensor:
    """Run the forward pass; arguments and result as of :func:`mmvim.ops.conv_silu.conv1d_silu`."""
    return library().conv_silu_forward(x, weight, bias, left)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward pass: gradients of x, weight and bias (empty where there is none)."""
    grad_x, grad_weight, grad_bias = library().conv_silu_backward(grad, x, weight, bias, left)
    return grad_x, grad_weight.to(weight.dtype), grad_bias if bias is None else grad_bias.to(bias.dtype)


IMPLEMENTATION = Implementation(forward, backward)
