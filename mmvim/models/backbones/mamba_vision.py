"""MambaVision.

'MambaVision: A Hybrid Mamba-Transformer Vision Backbone', Hatamizadeh and Kautz, CVPR 2025,
https://arxiv.org/abs/2407.08083.

Written from the paper and from recorded outputs of the authors' models; the parameters have the names of the published
checkpoints. Two habits that those were trained with are kept: windows larger than the map, whose zero padding takes
part in scan and attention, and the doubled bias of delta (see :class:`MambaVisionMixer`).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules.batchnorm import _BatchNorm

from mmvim.models.backbones.pyramid import Pyramid, four
from mmvim.models.layers.mamba_vision_mixer import MambaVisionMixer
from mmvim.models.layers.mlp import Mlp
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.recompute import recompute
from mmvim.models.layers.window_attention import WindowAttention, merge_windows, split_windows
from mmvim.registry import MODELS

# What the models from base to large2 have in common.
_SCALED = {'drop_path_rate': 0.3, 'layer_scale': 1e-5}


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2 with batch norm and ReLU: (B, in_channels, H, W) -> (B, dim, H / 4, W / 4).

    Examples:
        >>> import torch
        >>> Stem(3, 8, 16)(torch.randn(1, 3, 64, 96)).shape
        torch.Size([1, 16, 16, 24])
    """

    def __init__(self, in_channels: int, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(in_channels, in_dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(in_dim, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(in_dim, dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dim, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Reduce the image fourfold."""
        return self.conv_down(x)


class ConvBlock(nn.Module):
    """Residual block of the first two levels: conv, BN, GELU (tanh form), conv, BN (paper, Eq. 1).

    Examples:
        >>> import torch
        >>> ConvBlock(8, drop_path_rate=0.0)(torch.randn(1, 8, 16, 24)).shape
        torch.Size([1, 8, 16, 24])
    """

    conv_norms: ClassVar[tuple[tuple[str, str], ...]] = (('conv1', 'norm1'), ('conv2', 'norm2'))

    def __init__(self, dim: int, drop_path_rate: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(dim, dim, 3, 1, 1), nn.BatchNorm2d(dim, eps=1e-5)
        self.conv2, self.norm2 = nn.Conv2d(dim, dim, 3, 1, 1), nn.BatchNorm2d(dim, eps=1e-5)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = F.gelu(self.norm1(self.conv1(x)), approximate='tanh')
        return x + self.drop_path(self.norm2(self.conv2(y)))


class MixerBlock(nn.Module):
    """Token mixer and MLP of the last two levels, each pre-normed, scaled and residual (paper, Eq. 2 and 3).

    Args:
        dim: Channels of a token.
        mixer: :class:`MambaVisionMixer` or :class:`WindowAttention`.
        mlp_ratio: Hidden channels of the MLP over ``dim``.
        drop_path_rate: Stochastic depth rate.
        layer_scale: Initial value of the learned channel scales; None for no scales.

    Examples:
        >>> import torch
        >>> block = MixerBlock(8, WindowAttention(8, 2), mlp_ratio=4, drop_path_rate=0.0, layer_scale=None)
        >>> block(torch.randn(4, 49, 8)).shape
        torch.Size([4, 49, 8])
    """

    def __init__(
        self, dim: int, mixer: nn.Module, mlp_ratio: float, drop_path_rate: float, layer_scale: float | None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.mlp = mixer, Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(layer_scale * self.norm1.weight.detach().clone())
            self.gamma_2 = nn.Parameter(layer_scale * self.norm2.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, C) to the same shape."""
        for norm, branch, gamma in ((self.norm1, self.mixer, self.gamma_1), (self.norm2, self.mlp, self.gamma_2)):
            y = branch(norm(x))
            x = x + self.drop_path(y if gamma is None else gamma * y)
        return x


class Downsample(nn.Module):
    """3x3 convolution of stride 2 that doubles the channels.

    Examples:
        >>> import torch
        >>> Downsample(8)(torch.randn(1, 8, 7, 12)).shape
        torch.Size([1, 16, 4, 6])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 2 C, ceil(H / 2), ceil(W / 2))."""
        return self.reduction(x)


class Level(nn.Module):
    """Blocks of one resolution, on the map itself or on the tokens of its windows, and the way to the next level.

    Args:
        blocks: Blocks that take maps (B, C, H, W) or, where there are windows, tokens (B, L, C).
        window_size: Side of a window in cells; None for blocks on the map itself.
        downsample: Layer to the next level; None for the last level.

    Examples:
        >>> import torch
        >>> Level([Mlp(8, 16)], window_size=7, downsample=None)(torch.randn(1, 8, 5, 9), with_cp=False).shape
        torch.Size([1, 8, 5, 9])
    """

    def __init__(self, blocks: Sequence[nn.Module], window_size: int | None, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.window_size = window_size
        self.downsample = downsample

    def forward(self, x: Tensor, with_cp: bool) -> Tensor:
        """Run the blocks on (B, C, H, W), same shape out.

        Args:
            x: The map; zeros pad it to whole windows.
            with_cp: Recompute each block in the backward pass.

        Returns:
            The map after the blocks, before the downsampling.
        """
        size = x.shape[2:]
        if self.window_size is not None:
            x, padded = split_windows(x, self.window_size)  # (B * windows, S * S, C)
        for block in self.blocks:
            x = recompute(block, block, x) if with_cp and x.requires_grad else block(x)
        if self.window_size is not None:
            x = merge_windows(x, self.window_size, padded)  # (B, C, rows * S, cols * S)
            if is_dynamo_compiling():  # a slice's layout depends on whether the windows fit: each case would be a graph
                x = F.pad(x, (0, size[1] - padded[1], 0, size[0] - padded[0]))
            else:
                x = x[..., : size[0], : size[1]]  # (B, C, H, W)
        return x


@MODELS.register_module()
class MambaVision(Pyramid):
    """MambaVision: two levels of convolutions, two of windowed selective scans followed by windowed attention.

    Args:
        arch: 'tiny', 'tiny2', 'small', 'base', 'large', 'large2', 'large3', or a dict with ``depths``, ``dim``,
            ``in_dim``, ``num_heads``, and any of ``window_sizes`` ((8, 8, 14, 7)), ``mlp_ratio`` (4),
            ``drop_path_rate`` (0.2), ``layer_scale`` (None), ``d_state`` (8), ``d_conv`` (3). Defaults to 'tiny'.
        in_channels: Channels of the image. Defaults to 3.
        window_sizes: Sides of the square windows of the four levels, in cells of the level's map; the first two
            levels have no windows and ignore theirs. A window may be larger than the map, which is then padded with
            zeros that take part: weights give the right results only with the windows that they were trained with.
            Defaults to None, the architecture's (those of the classifiers).
        out_indices: Levels whose maps are returned. Defaults to (0, 1, 2, 3).
        out_norm: Normalise each output by a LayerNorm over channels (``outnorm0..3`` of the published dense models).
            Defaults to True.
        final_norm: Normalise the last level by the batch norm ``norm`` of the published classifiers. Defaults to False.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to None, the
            architecture's. (All published dense models were trained with 0.2, whatever their configs say.)
        layer_scale: Initial value of the learned scales of the last two levels' branches. Defaults to None, the
            architecture's.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n levels; frozen parts stay in eval mode.
            Defaults to -1.
        norm_eval: Keep every batch norm in eval mode. Defaults to False.
        with_cp: Recompute each block in the backward pass to save memory. Defaults to False.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is; :class:`mmvim.checkpoints.PretrainedBackbone` has its other arguments. Defaults to None.
        build_unused: Build levels that no output needs, too; they are frozen and do not run. For code that wants every
            weight of a complete checkpoint to have its place. Defaults to False.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> import torch
        >>> arch = {'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 2)}
        >>> [tuple(feature.shape) for feature in MambaVision(arch).eval()(torch.randn(1, 3, 64, 96))]
        [(1, 8, 16, 24), (1, 16, 8, 12), (1, 32, 4, 6), (1, 64, 2, 3)]
    """

    stages_name: ClassVar[str] = 'levels'
    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'depths': (1, 3, 8, 4), 'dim': 80, 'in_dim': 32, 'num_heads': (2, 4, 8, 16)},
        'tiny2': {'depths': (1, 3, 11, 4), 'dim': 80, 'in_dim': 32, 'num_heads': (2, 4, 8, 16)},
        'small': {'depths': (3, 3, 7, 5), 'dim': 96, 'in_dim': 64, 'num_heads': (2, 4, 8, 16)},
        'base': {'depths': (3, 3, 10, 5), 'dim': 128, 'in_dim': 64, 'num_heads': (2, 4, 8, 16), **_SCALED},
        'large': {'depths': (3, 3, 10, 5), 'dim': 196, 'in_dim': 64, 'num_heads': (4, 8, 16, 32), **_SCALED},
        'large2': {'depths': (3, 3, 12, 5), 'dim': 196, 'in_dim': 64, 'num_heads': (4, 8, 16, 32), **_SCALED},
        'large3': {
            'depths': (3, 3, 20, 10),
            'dim': 256,
            'in_dim': 64,
            'num_heads': (4, 8, 16, 32),
            'window_sizes': (8, 8, 16, 8),
            'drop_path_rate': 0.5,
            'layer_scale': 1e-5,
        },
    }
    arch_defaults: ClassVar[dict] = {
        'window_sizes': (8, 8, 14, 7),
        'mlp_ratio': 4,
        'drop_path_rate': 0.2,
        'layer_scale': None,
        'd_state': 8,
        'd_conv': 3,
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        window_sizes: Sequence[int] | None = None,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        final_norm: bool = False,
        drop_path_rate: float | None = None,
        layer_scale: float | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        scan_backend: str | None = None,
        init_cfg: dict | list | None = None,
        build_unused: bool = False,
    ) -> None:
        super().__init__(arch, out_indices, out_norm, final_norm, frozen_stages, with_cp, init_cfg)
        if layer_scale is not None:
            self.arch['layer_scale'] = layer_scale
        self.num_heads = four('num_heads', self.arch['num_heads'])
        self.window_sizes = four('window_sizes', self.arch['window_sizes'] if window_sizes is None else window_sizes)
        self.norm_eval, self.scan_backend = norm_eval, scan_backend
        self.build(in_channels, drop_path_rate, build_unused)

    def build_stem(self, in_channels: int) -> nn.Module:
        """See the base class."""
        return Stem(in_channels, self.arch['in_dim'], self.dims[0])

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """See the base class."""
        if stage < 2:
            return ConvBlock(dim, drop_path_rate)
        arch = self.arch
        # The scan mixes the first half of the blocks (the larger one), attention the others.
        mixer = (
            MambaVisionMixer(dim, arch['d_state'], arch['d_conv'], scan_backend=self.scan_backend)
            if index < (self.depths[stage] + 1) // 2
            else WindowAttention(dim, self.num_heads[stage])
        )
        return MixerBlock(dim, mixer, arch['mlp_ratio'], drop_path_rate, arch['layer_scale'])

    def build_stage(self, stage: int, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> nn.Module:
        """See the base class."""
        return Level(blocks, self.window_sizes[stage] if stage >= 2 else None, downsample)

    def build_downsample(self, dim: int) -> nn.Module:
        """See the base class."""
        return Downsample(dim)

    def build_final_norm(self, dim: int) -> nn.Module:
        """See the base class."""
        return nn.BatchNorm2d(dim)

    def build_output_norm(self, dim: int) -> nn.Module:
        """See the base class."""
        return build_norm({'type': 'mmvim.LN2d', 'eps': 1e-5}, dim)

    def to_map(self, x: Tensor) -> Tensor:
        """See the base class; a norm's output keeps the memory format that it has."""
        return x if self.out_norm else x.contiguous()

    def train(self, mode: bool = True) -> 'MambaVision':
        """Set the training mode; frozen parts, and with ``norm_eval`` every batch norm, stay in eval mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
