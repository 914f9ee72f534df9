"""Norm layers that mmcv lacks, buildable from any config as ``norm_cfg=dict(type='mmvim.RMSNorm')``."""

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer as _build_norm_layer
from torch import Tensor, nn

from mmvim.ops.rms_norm import add_rms_norm
from mmvim.ops.triton_host.device import on_triton
from mmvim.registry import MODELS


@MODELS.register_module()
class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis, ``x / sqrt(mean(x^2) + eps) * weight`` (https://arxiv.org/abs/1910.07467).

    Args:
        normalized_shape: Channels of the last axis.
        eps: Added to the mean square. Defaults to 1e-5, Vim's (PyTorch's own default depends on the dtype).
    """

    _abbr_ = 'rms'

    def __init__(self, normalized_shape: int, eps: float = 1e-5) -> None:
        super().__init__(normalized_shape, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C) over C, same shape out."""
        if on_triton(x):
            return add_rms_norm(x, None, self.weight, self.eps)[0]
        return super().forward(x)


@MODELS.register_module()
class LN2d(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W).

    A subclass of ``nn.LayerNorm``, so that a constructor's `norm_decay_mult` applies to it.

    Args:
        normalized_shape: Channels C.
        eps: Added to the variance. Defaults to 1e-6; a `norm_cfg` without it gives 1e-5, which is mmcv's doing.
    """

    _abbr_ = 'ln'

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__(normalized_shape, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C, same shape out."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build the norm layer `norm_cfg` over `channels`, through mmcv, so that every registered type works."""
    return _build_norm_layer(norm_cfg, channels)[1]
