"""Norm layers that mmcv lacks, buildable from any config as ``norm_cfg=dict(type='mmvim.RMSNorm')``."""

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer as _build_norm_layer
from torch import Tensor, nn

from mmvim.ops.rms_norm import add_rms_norm, fuses_add
from mmvim.registry import MODELS


@MODELS.register_module()
class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis, ``x / sqrt(mean(x^2) + eps) * weight`` (https://arxiv.org/abs/1910.07467).

    Args:
        normalized_shape: Channels of the last axis.
        eps: Added to the mean square. Defaults to 1e-5, Vim's (PyTorch's own default depends on the dtype).

    Examples:
        >>> import torch
        >>> torch.allclose(RMSNorm(2)(torch.tensor([[1.0, -7.0]])), torch.tensor([[0.2, -1.4]]))
        True
    """

    _abbr_ = 'rms'
    eps: float

    def __init__(self, normalized_shape: int, eps: float = 1e-5) -> None:
        super().__init__(normalized_shape, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C) over C, same shape out."""
        if fuses_add(x):
            return add_rms_norm(x, None, self.weight, self.eps)[0]
        return super().forward(x)


@MODELS.register_module()
class LN2d(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W).

    A subclass of ``nn.LayerNorm``, so that the option ``norm_decay_mult`` of optimizer constructors applies to it.

    Args:
        normalized_shape: Channels C.
        eps: Added to the variance. Defaults to 1e-6; built from a ``norm_cfg`` without ``eps`` it is 1e-5, because
            mmcv fills that in.

    Examples:
        >>> import torch
        >>> y = LN2d(8)(torch.randn(2, 8, 3, 5))
        >>> y.shape, bool(y.mean(1).abs().max() < 1e-5)
        (torch.Size([2, 8, 3, 5]), True)
    """

    _abbr_ = 'ln'

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__(normalized_shape, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C, same shape out."""
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build the norm layer ``norm_cfg`` over ``channels``, through mmcv, so that every registered type works.

    Args:
        norm_cfg: Config of the layer: ``type``, and arguments such as ``eps``.
        channels: Channels that it normalises.

    Returns:
        The layer.

    Examples:
        >>> build_norm({'type': 'mmvim.RMSNorm', 'eps': 1e-6}, 8)
        RMSNorm((8,), eps=1e-06, elementwise_affine=True)
    """
    return _build_norm_layer(norm_cfg, channels)[1]
