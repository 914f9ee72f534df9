"""The feature pyramid of a plain backbone.

'Exploring Plain Vision Transformer Backbones for Object Detection', Li, Mao, Girshick and He, ECCV 2022,
https://arxiv.org/abs/2203.16527, Sec. 3.

Layers and initialisation (PyTorch's own) are those of ``SimpleFeaturePyramid`` in detectron2; the published detectors
were trained with Vim's fork of it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvim.models.layers.norm import build_norm
from mmvim.registry import MODELS


def _rescale(scale: float, channels: int, norm_cfg: dict) -> tuple[list[nn.Module], int]:
    """Return layers that change a map's size by ``scale``, and the channels that they leave."""
    if scale == 4:
        return [
            nn.ConvTranspose2d(channels, channels // 2, 2, 2),
            build_norm(norm_cfg, channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2),
        ], channels // 4
    if scale == 2:
        return [nn.ConvTranspose2d(channels, channels // 2, 2, 2)], channels // 2
    return ([nn.MaxPool2d(2, 2)] if scale == 0.5 else []), channels


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Simple feature pyramid: every level is made from the one map of a plain backbone, without a top-down path.

    Each level is first rescaled (4: two transposed convolutions with a norm and GELU between them, 2: one transposed
    convolution, 1: nothing, 0.5: 2 x 2 max pooling). A 1x1 and a 3x3 convolution follow, each without bias and followed
    by a norm.

    Args:
        in_channels: Channels C of the map.
        out_channels: Channels of every level. Defaults to 256.
        scales: Sizes of the levels relative to the map, each of 4, 2, 1, 0.5, descending: strides 4, 8, 16 and 32 for a
            map of stride 16. Defaults to (4, 2, 1, 0.5).
        num_outs: Number of levels; those beyond ``scales`` take every second cell of the level before. Defaults to 5.
        norm_cfg: Norm layer. Defaults to None, ``dict(type='mmvim.LN2d', eps=1e-6)``.
        init_cfg: MMEngine initialisation. Defaults to None.

    Raises:
        ValueError: If an argument is outside what is listed here.

    Examples:
        >>> import torch
        >>> maps = SimpleFPN(in_channels=8, out_channels=4)([torch.randn(2, 8, 14, 20)])
        >>> [tuple(level.shape) for level in maps]
        [(2, 4, 56, 80), (2, 4, 28, 40), (2, 4, 14, 20), (2, 4, 7, 10), (2, 4, 4, 5)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, int) or in_channels < 4 or in_channels % 4:
            raise ValueError(
                f'in_channels={in_channels!r} must be one int divisible by 4: the channels of the one map '
                'of a plain backbone, halved twice on the way to stride 4'
            )
        if (
            not scales
            or any(scale not in (4, 2, 1, 0.5) for scale in scales)
            or list(scales) != sorted(set(scales), reverse=True)
        ):
            raise ValueError(f'scales={scales!r} must descend and be of 4, 2, 1, 0.5')
        if num_outs < len(scales):
            raise ValueError(f'num_outs={num_outs} must be at least {len(scales)}, the number of scales')
        norm_cfg = norm_cfg or {'type': 'mmvim.LN2d', 'eps': 1e-6}  # without eps mmcv would pass 1e-5
        self.scales, self.num_outs = tuple(scales), num_outs
        self.levels = nn.ModuleList()
        for scale in scales:
            layers, channels = _rescale(scale, in_channels, norm_cfg)
            self.levels.append(
                nn.Sequential(
                    *layers,
                    nn.Conv2d(channels, out_channels, 1, bias=False),
                    build_norm(norm_cfg, out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    build_norm(norm_cfg, out_channels),
                )
            )

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: The map (B, in_channels, h, w), alone or as the only element of a sequence.

        Returns:
            ``num_outs`` maps (B, out_channels, h * scale, w * scale), halved again for each level beyond ``scales``.

        Raises:
            ValueError: If there is more than one map, or it is too small to be halved.
        """
        maps = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if len(maps) != 1:
            raise ValueError(
                f'SimpleFPN makes its levels from one map and got {len(maps)}: give the backbone '
                'out_indices=-1 (its last block), or use a neck that takes several'
            )
        height, width = maps[0].shape[2:]
        if self.scales[-1] == 0.5 and min(height, width) < 2:
            raise ValueError(
                f'a map of {height} x {width} cells cannot be halved: pad images to a multiple of twice '
                'the patch size (data_preprocessor.pad_size_divisor=32)'
            )
        levels = [level(maps[0]) for level in self.levels]
        while len(levels) < self.num_outs:
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return tuple(levels)
