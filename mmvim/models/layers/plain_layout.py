"""Maps in the plain layout, where PyTorch's batch norm needs them."""

from typing import Any

import torch
from torch import Tensor


class PlainLayout(torch.autograd.Function):
    """Copy a map (B, C, H, W) and its gradient into the plain layout, the stride of a batch axis of size 1 included.

    A CPU's batch norm computes wrong gradients if one of its input and the gradient of its output is a map as tokens
    make it. Convolutions and activations hand such a gradient on.

    Examples:
        >>> tokens = torch.randn(1, 15, 8)
        >>> PlainLayout.apply(tokens.transpose(1, 2).reshape(1, 8, 3, 5)).stride()
        (120, 15, 5, 1)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return a copy of x."""
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return a copy of the gradient."""
        return grad.clone(memory_format=torch.contiguous_format)
