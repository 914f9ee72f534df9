"""PlainMamba.

'PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition', Yang, Chen, Espinosa, Ericsson, Wang, Liu and
Crowley, BMVC 2024, https://arxiv.org/abs/2403.17695.

Written from the paper and from recorded outputs of the authors' models, with names, sizes and habits looked up in their
code; the parameters have the names of the published checkpoints. Three habits that those were trained with are kept,
see :class:`mmvim.models.layers.plain_mamba_mixer.PlainMambaMixer`, and a fourth at the start: the authors' classifiers
set the bias of every linear layer to 0, that of ``dt_proj`` too, which overwrites Mamba's initial steps. The authors'
configs of segmentors cannot be built, because they name a class that is not registered there (their issue 7).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmvim.models.backbones.common import (
    block_drop_path_rates,
    fit_stored_positions,
    normalize_out_indices,
    resolve_arch,
)
from mmvim.models.backbones.plain import PlainBackbone
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.plain_layout import PlainLayout
from mmvim.models.layers.plain_mamba_mixer import PlainMambaMixer
from mmvim.models.layers.pos_embed import resize_grid
from mmvim.models.layers.recompute import recompute
from mmvim.registry import MODELS

_OUTPUT_NORM = {'type': 'LN', 'eps': 1e-6}


class ConvStem(nn.Module):
    """Convolutions with batch norm at half the resolution, then patches of 8 x 8 of their map.

    The map is padded with zeros at its bottom and right, just enough that every cell lies in a patch.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of a patch's cell.
        stem_dims: Channels of the convolutions.
        stem_convs: Convolutions of 3 x 3 after the first one of 7 x 7.

    Examples:
        >>> ConvStem(3, 8, stem_dims=4, stem_convs=1)(torch.randn(1, 3, 64, 50)).shape
        torch.Size([1, 4, 4, 8])
    """

    def __init__(self, in_channels: int, embed_dims: int, stem_dims: int, stem_convs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_dims, 7, 2, 3, bias=False), nn.BatchNorm2d(stem_dims), nn.ReLU()
        )
        self.convs = nn.Sequential()
        for _ in range(stem_convs):
            self.convs.extend(
                [nn.Conv2d(stem_dims, stem_dims, 3, 1, 1, bias=False), nn.BatchNorm2d(stem_dims), nn.ReLU()]
            )
        self.projection = nn.Conv2d(stem_dims, embed_dims, 8, 8)

    @staticmethod
    def grid(height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches that cover an image of ``height`` x ``width`` pixels."""
        return -(-height // 16), -(-width // 16)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, in_channels, H, W) to cells (B, ceil(H / 16), ceil(W / 16), embed_dims)."""
        # Of the image's size, so that a traced number of rows is a single quotient. Of the convolutions' map it would
        # be a quotient plus 1: PyTorch's compiler cannot tell then that rows * cols is a multiple of cols, hence not
        # the order of strides either, and fails.
        rows, cols = self.grid(*x.shape[2:])
        x = self.convs(self.stem(x))
        height, width = x.shape[2:]
        x = F.pad(x, (0, 8 * cols - width, 0, 8 * rows - height))
        return self.projection(x).permute(0, 2, 3, 1)  # (B, C, h, w) -> (B, h, w, C)


class PlainMambaBlock(nn.Module):
    """A pre-normed residual mixer; some blocks end with a depthwise convolution, outside of the residual.

    Args:
        embed_dims: Channels.
        mixer_cfg: Arguments of :class:`PlainMambaMixer` other than ``embed_dims``.
        drop_path_rate: Stochastic depth rate.
        conv: End with a depthwise convolution of 3 x 3, batch norm and GELU.

    Examples:
        >>> PlainMambaBlock(8, {'d_state': 4}, drop_path_rate=0.0, conv=True)(torch.randn(1, 3, 5, 8)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, embed_dims: int, mixer_cfg: dict, drop_path_rate: float, conv: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims)
        self.dw = None
        if conv:
            self.dw = nn.Sequential(
                nn.Conv2d(embed_dims, embed_dims, 3, 1, 1, groups=embed_dims, bias=False),
                nn.BatchNorm2d(embed_dims),
                nn.GELU(),
            )
        self.mamba = PlainMambaMixer(embed_dims, **mixer_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map cells (B, H, W, C) to the same shape."""
        y = self.mamba(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, C) -> (B, C, H, W), and back
        x = x + self.drop_path(y)
        if self.dw is not None:
            x = PlainLayout.apply(self.dw(PlainLayout.apply(x.permute(0, 3, 1, 2))))  # (B, H, W, C) -> (B, C, H, W)
            x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        return x


@MODELS.register_module()
class PlainMamba(PlainBackbone):
    """PlainMamba as a plain backbone: every output has the stride of the patches, 16.

    A head that wants a pyramid needs a neck (``mmseg.Feature2Pyramid``, ``mmvim.SimpleFPN``); the published segmentors
    have none.

    Args:
        arch: 'l1' (192 channels, 24 blocks), 'l2' (384, 24), 'l3' (448, 36), or a dict with ``embed_dims`` and
            ``depth``, and any of ``d_state`` (16), ``d_conv`` (7), ``expand`` (2), ``dt_rank`` ('auto'), ``stem_dims``
            (64) and ``stem_convs`` (2) for the convolutions before the patches, and ``conv_blocks`` (()), the blocks
            that end with a convolution of their own. Defaults to 'l1'.
        img_size: Pixels (int or (H, W)) for which the learned positions are stored; inputs of any other size resize
            them on the fly, as the published segmentors do with those of 224. Defaults to 224.
        in_channels: Channels of the image. Defaults to 3.
        out_indices: Blocks after which an output is taken, int or sequence, negative from the end. Defaults to -1.
        out_norm: Normalise the outputs of all blocks but the last (``norm_layer<i>`` of the published segmentors).
            Defaults to True.
        final_norm: Normalise the output of the last block (``ln1``, in segmentors too). Defaults to True.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 stem and positions, n also the first n blocks; frozen parts stay in eval
            mode. Defaults to -1.
        with_cp: Recompute each block in the backward pass to save memory. Defaults to False.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is; :class:`mmvim.checkpoints.PretrainedBackbone` and
            :class:`mmvim.checkpoints.families.PlainMambaFamily` have its other arguments. Defaults to None.
        build_unused: Build blocks that no output needs, too; they are frozen and do not run. For code that wants every
            weight of a complete checkpoint to have its place. Defaults to False.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> arch = {'embed_dims': 16, 'depth': 2, 'stem_dims': 8}
        >>> model = PlainMamba(arch, img_size=64, out_indices=(0, 1)).eval()
        >>> [tuple(feature.shape) for feature in model(torch.randn(1, 3, 64, 90))]
        [(1, 16, 4, 6), (1, 16, 4, 6)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'l1': {'embed_dims': 192, 'depth': 24, 'stem_convs': 1, 'conv_blocks': (0,)},
        'l2': {'embed_dims': 384, 'depth': 24},
        'l3': {'embed_dims': 448, 'depth': 36},
    }
    arch_defaults: ClassVar[dict] = {
        'd_state': 16,
        'd_conv': 7,
        'expand': 2,
        'dt_rank': 'auto',
        'stem_dims': 64,
        'stem_convs': 2,
        'conv_blocks': (),
    }
    bare: ClassVar[dict] = {'out_indices': -1, 'out_norm': False, 'final_norm': False}

    def __init__(
        self,
        arch: str | dict = 'l1',
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        out_norm: bool = True,
        final_norm: bool = True,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        scan_backend: str | None = None,
        init_cfg: dict | list | None = None,
        build_unused: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = settings = resolve_arch(arch, self.arch_zoo, self.arch_defaults)
        self.embed_dims, self.depth = settings['embed_dims'], settings['depth']
        convs = tuple(settings['conv_blocks'])
        if any(index not in range(self.depth) for index in convs):
            raise ValueError(f'conv_blocks={convs} must be blocks, ints in 0..{self.depth - 1}')
        if not -1 <= frozen_stages <= self.depth:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..{self.depth}, the number of blocks')
        self.out_indices = normalize_out_indices(out_indices, self.depth)
        self.out_norm, self.frozen_stages, self.with_cp = out_norm, frozen_stages, with_cp

        self.patch_embed = ConvStem(
            in_channels, self.embed_dims, settings['stem_dims'], stem_convs=settings['stem_convs']
        )
        self.grid_size = self.patch_embed.grid(*_pair(img_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid_size[0] * self.grid_size[1], self.embed_dims))
        # Travels with the weights: a number of positions does not tell their grid. Nothing computes with it.
        self.register_buffer('pos_embed_grid', torch.tensor(self.grid_size, device='cpu'))
        self._register_load_state_dict_pre_hook(self._fit_pos_embed)

        mixer_cfg = {name: settings[name] for name in ('d_state', 'd_conv', 'expand', 'dt_rank')}
        mixer_cfg['scan_backend'] = scan_backend
        self.needed = self.out_indices[-1] + 1  # blocks
        rates = block_drop_path_rates(drop_path_rate, self.depth)
        self.layers = nn.ModuleList(
            PlainMambaBlock(self.embed_dims, mixer_cfg, rate, index in convs)
            for index, rate in enumerate(rates[: self.depth if build_unused else self.needed])
        )
        last = self.depth - 1
        for index in self.out_indices if out_norm else ():
            if index != last:
                self.add_module(f'norm_layer{index}', build_norm(_OUTPUT_NORM, self.embed_dims))
        whole = len(self.layers) == self.depth
        self.ln1 = build_norm(_OUTPUT_NORM, self.embed_dims) if final_norm and whole else None
        self.not_built = tuple(f'layers.{index}.' for index in range(len(self.layers), self.depth))
        self.not_built += () if whole or not final_norm else ('ln1.',)
        if out_norm:
            self.not_built += tuple(f'norm_layer{index}.' for index in range(last) if index not in self.out_indices)
        self._init_parameters()
        self._freeze()

    def _init_parameters(self) -> None:
        """Begin as the published classifiers: every linear layer alike, ``dt_proj`` included."""
        trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _fit_pos_embed(self, state_dict: dict, prefix: str, *_: object) -> None:
        fit_stored_positions(state_dict, prefix + 'pos_embed', self.grid_size, self.embed_dims)

    def _output(self, x: Tensor, index: int) -> Tensor:
        """Normalise cells (B, h, w, C) after a block, and return them as a map (B, C, h, w)."""
        if index == self.depth - 1:
            x = x if self.ln1 is None else self.ln1(x)
        elif self.out_norm:
            x = getattr(self, f'norm_layer{index}')(x)
        return x.permute(0, 3, 1, 2).contiguous()

    @property
    def patch_stride(self) -> tuple[int, int]:
        """See the base class."""
        return 16, 16

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the base class."""
        x = self.patch_embed(images)
        grid = (x.shape[1], x.shape[2])
        return x.flatten(1, 2) + resize_grid(
            self.pos_embed, self.grid_size, grid
        ), grid  # (B, h, w, C) -> (B, h * w, C)

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int], first: int, stop: int) -> Tensor:
        """See the base class."""
        x = tokens.unflatten(1, grid)  # (B, h * w, C) -> (B, h, w, C)
        for index in range(first, stop):
            x = self._block(index, x)
        return x.flatten(1, 2)  # (B, h, w, C) -> (B, h * w, C)

    def _block(self, index: int, x: Tensor) -> Tensor:
        """Run one block on cells (B, h, w, C)."""
        layer = self.layers[index]
        return recompute(layer, layer, x) if self.with_cp and self.training and x.requires_grad else layer(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W.

        Returns:
            Maps (B, embed_dims, ceil(H / 16), ceil(W / 16)).
        """
        tokens, grid = self.embed(x)
        x = tokens.unflatten(1, grid)  # (B, h * w, C) -> (B, h, w, C)
        outputs = []
        for index in range(self.needed):
            x = self._block(index, x)
            if index in self.out_indices:
                outputs.append(self._output(x, index))
        return tuple(outputs)
