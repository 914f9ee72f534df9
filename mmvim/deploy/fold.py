"""What copies for inference are made by: folding of batch norms, and layers of mmcv's made PyTorch's."""

from typing import TypeVar

import torch
from mmcv.cnn.bricks.wrappers import Linear
from torch import nn

Model = TypeVar('Model', bound=nn.Module)


def with_plain_linears(model: Model) -> Model:
    """Make mmcv's linear layers, which differ from PyTorch's for an old version of it only, PyTorch's, in place.

    Examples:
        >>> type(with_plain_linears(nn.Sequential(Linear(2, 2)))[0]) is nn.Linear
        True
    """
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear
    return model


def fold_norm(conv: nn.Module, norm: nn.Module) -> None:
    """Give a convolution, in place, the weights with which it computes what it and the norm in eval mode do.

    Args:
        conv: A convolution, or a transposed one without groups.
        norm: A batch norm of its outputs, with recorded statistics.

    Examples:
        >>> conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
        >>> _ = norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        >>> x = torch.randn(1, 3, 8, 8)
        >>> wanted = norm(conv(x))
        >>> fold_norm(conv, norm)
        >>> torch.allclose(conv(x), wanted, atol=1e-5)
        True
    """
    weight, mean = conv.weight, norm.running_mean.double()
    with torch.no_grad():  # in float64: one rounding in all
        scale = (norm.running_var.double() + norm.eps).rsqrt() * norm.weight.double()  # (C,)
        bias = -mean if conv.bias is None else conv.bias.double() - mean
        bias = bias * scale + norm.bias.double()
        axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0  # of the outputs
        scale = scale.reshape(*(-1 if i == axis else 1 for i in range(weight.ndim)))
        conv.weight = nn.Parameter((weight.double() * scale).to(weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
