"""Vision-RWKV.

'Vision-RWKV: Efficient and Scalable Visual Perception with RWKV-Like Architectures', Duan et al., ICLR 2025,
https://arxiv.org/abs/2403.02308.

Written from the paper and from recorded outputs of the authors' model, with names, sizes and initial values looked up
in their code; the parameters have the names of the published checkpoints.

What the authors' code does without a word, and what is done here: its CUDA kernel, with which every published weight
was trained, does not compute the paper's formula; ``boundary='published'`` is the kernel, ``boundary='exact'`` the
formula. Its dense models load weights without looking: a last norm is left over, and positions of another size are kept
as zeros, as VRWKV-L's are unless ``img_size`` is 192; here positions are resized, and whatever else does not fit is an
error. T's dense models have layer scales that its classifier lacks, which start at 1. The names that shall not decay
are looked for without their prefix, so that positions do decay there; here they do not.

VRWKV6, of which the authors published classifiers too, is not here: its token mixer is another operator (a matrix of
states for each head, decayed by each token), and there are no recorded outputs to hold an implementation against.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmvim.models.backbones.common import (
    block_drop_path_rates,
    fit_stored_positions,
    normalize_out_indices,
    resolve_arch,
)
from mmvim.models.backbones.plain import PlainBackbone
from mmvim.models.layers.pos_embed import resize_grid
from mmvim.models.layers.recompute import recompute
from mmvim.models.layers.vrwkv_layers import ChannelMix, SpatialMix
from mmvim.registry import MODELS


class PatchProjection(nn.Module):
    """Cut an image into patches that do not overlap, and project each.

    The image is padded with zeros at its bottom and right, just enough that every pixel lies in a patch.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        patch_size: Side of a patch in pixels.

    Examples:
        >>> tokens, grid = PatchProjection(3, 8, patch_size=16)(torch.randn(2, 3, 64, 50))
        >>> tokens.shape, grid
        (torch.Size([2, 16, 8]), (4, 4))
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches that cover an image of ``height`` x ``width`` pixels."""
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map an image (B, in_channels, H, W) to tokens (B, h * w, embed_dims) in raster order, and (h, w)."""
        height, width = x.shape[2:]
        grid = self.grid(height, width)
        bottom, right = grid[0] * self.patch_size - height, grid[1] * self.patch_size - width
        x = F.pad(x, (0, right, 0, bottom))  # without asking whether it must be: the answer would bind a traced size
        return self.projection(x).flatten(2).transpose(1, 2), grid  # (B, C, h, w) -> (B, C, h * w) -> (B, h * w, C)


class VRWKVBlock(nn.Module):
    """A spatial and a channel mix, each residual.

    Args:
        embed_dims: Channels.
        index: Of the block; the first one begins with a norm.
        depth: Blocks.
        hidden_rate: Hidden channels of the channel mix over ``embed_dims``.
        post_norm: Normalise what a mix gives, not what it gets.
        key_norm: See the mixes.
        layer_scale: Initial scale of what a mix adds to the stream, by channel; None for no scale.
        boundary: See :class:`SpatialMix`.
        scan_backend: See :class:`SpatialMix`.
        drop_path_rate: Stochastic depth rate.

    Examples:
        >>> options = {'post_norm': True, 'key_norm': True, 'layer_scale': 1e-5}
        >>> block = VRWKVBlock(8, index=0, depth=1, hidden_rate=4, drop_path_rate=0.0, **options)
        >>> block(torch.randn(2, 15, 8), (3, 5)).shape
        torch.Size([2, 15, 8])
    """

    def __init__(
        self,
        embed_dims: int,
        index: int,
        depth: int,
        hidden_rate: float,
        post_norm: bool,
        key_norm: bool,
        layer_scale: float | None,
        drop_path_rate: float,
        boundary: str = 'exact',
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.ln1, self.ln2 = nn.LayerNorm(embed_dims), nn.LayerNorm(embed_dims)
        self.ln0 = nn.LayerNorm(embed_dims) if index == 0 else None
        self.att = SpatialMix(embed_dims, index, depth, key_norm, boundary, scan_backend)
        self.ffn = ChannelMix(embed_dims, index, depth, hidden_rate, key_norm)
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((embed_dims,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((embed_dims,), float(layer_scale)))
        self.drop_path = DropPath(drop_path_rate)

    def _add(self, x: Tensor, mix: nn.Module, norm: nn.Module, gamma: Tensor | None, grid: tuple[int, int]) -> Tensor:
        y = norm(mix(x, grid)) if self.post_norm else mix(norm(x), grid)
        return x + self.drop_path(y if gamma is None else gamma * y)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens (B, H * W, C) of a grid (H, W) to the same shape."""
        if self.ln0 is not None:
            x = self.ln0(x)
        x = self._add(x, self.att, self.ln1, self.gamma1, grid)
        return self._add(x, self.ffn, self.ln2, self.gamma2, grid)


@MODELS.register_module()
class VRWKV(PlainBackbone):
    """Vision-RWKV as a plain backbone: every output has the stride of the patches.

    A head that wants a pyramid needs a neck (``mmseg.Feature2Pyramid``, ``mmvim.SimpleFPN``).

    Args:
        arch: 'tiny' (192 channels, 12 blocks), 'small' (384, 12), 'base' (768, 12), 'large' (1024, 24), 'tiny-scaled'
            ('tiny' with the layer scales that the published dense models of T have), or a dict with ``embed_dims`` and
            ``depth``, and any of ``hidden_rate`` (4, hidden channels of the channel mix), ``post_norm`` (False: norms
            before the mixes; the published ones but 'tiny' have them behind), ``key_norm`` (False; 'large' has them)
            and ``layer_scale`` (None; the initial scale of what a mix adds: 1 for 'small', 1e-5 for 'base' and
            'large'). Defaults to 'tiny'.
        img_size: Pixels (int or (H, W)) for which the learned positions are stored; inputs of any other size resize
            them on the fly. Defaults to 224; VRWKV-L was published with those of 192.
        patch_size: Side of a patch in pixels. Defaults to 16.
        in_channels: Channels of the image. Defaults to 3.
        boundary: How the bidirectional average treats the borders of its pieces: 'published', as the authors' CUDA
            kernel, with which their weights were trained, or 'exact', the paper's formula; see
            :func:`mmvim.ops.bi_wkv`, whose own default is 'exact'. Defaults to 'published'.
        out_indices: Blocks after which an output is taken, int or sequence, negative from the end. Defaults to -1.
        final_norm: Normalise the output of the last block (``ln1``); the others are the stream as it is. Defaults to
            True.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n blocks; frozen parts stay in eval
            mode. Defaults to -1.
        with_cp: Recompute each block in the backward pass to save memory. Defaults to False.
        scan_backend: Backend of the average, see :func:`mmvim.ops.bi_wkv`. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is; :class:`mmvim.checkpoints.PretrainedBackbone` and
            :class:`mmvim.checkpoints.families.VRWKVFamily` have its other arguments. Defaults to None.
        build_unused: Build blocks that no output needs, too; they are frozen and do not run. For code that wants every
            weight of a complete checkpoint to have its place. Defaults to False.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> model = VRWKV({'embed_dims': 16, 'depth': 2}, img_size=64, out_indices=(0, 1)).eval()
        >>> [tuple(feature.shape) for feature in model(torch.randn(1, 3, 64, 90))]
        [(1, 16, 4, 6), (1, 16, 4, 6)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'embed_dims': 192, 'depth': 12},
        'tiny-scaled': {'embed_dims': 192, 'depth': 12, 'layer_scale': 1.0},
        'small': {'embed_dims': 384, 'depth': 12, 'post_norm': True, 'layer_scale': 1.0},
        'base': {'embed_dims': 768, 'depth': 12, 'post_norm': True, 'layer_scale': 1e-5},
        'large': {'embed_dims': 1024, 'depth': 24, 'post_norm': True, 'key_norm': True, 'layer_scale': 1e-5},
    }
    arch_defaults: ClassVar[dict] = {'hidden_rate': 4, 'post_norm': False, 'key_norm': False, 'layer_scale': None}
    bare: ClassVar[dict] = {'out_indices': -1, 'final_norm': False}

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        boundary: str = 'published',
        out_indices: int | Sequence[int] = -1,
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
        if not -1 <= frozen_stages <= self.depth:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..{self.depth}, the number of blocks')
        self.out_indices = normalize_out_indices(out_indices, self.depth)
        self.frozen_stages, self.with_cp = frozen_stages, with_cp

        self.patch_embed = PatchProjection(in_channels, self.embed_dims, patch_size)
        self.grid_size = self.patch_embed.grid(*_pair(img_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid_size[0] * self.grid_size[1], self.embed_dims))
        # Travels with the weights: a number of positions does not tell their grid. Nothing computes with it.
        self.register_buffer('pos_embed_grid', torch.tensor(self.grid_size, device='cpu'))
        self._register_load_state_dict_pre_hook(self._fit_pos_embed)

        self.needed = self.out_indices[-1] + 1  # blocks
        rates = block_drop_path_rates(drop_path_rate, self.depth)
        self.layers = nn.ModuleList(
            VRWKVBlock(index=index, drop_path_rate=rate, boundary=boundary, scan_backend=scan_backend, **settings)
            for index, rate in enumerate(rates[: self.depth if build_unused else self.needed])
        )
        whole = len(self.layers) == self.depth
        self.ln1 = nn.LayerNorm(self.embed_dims) if final_norm and whole else None
        self.not_built = tuple(f'layers.{index}.' for index in range(len(self.layers), self.depth))
        self.not_built += () if whole or not final_norm else ('ln1.',)
        self._init_parameters()
        self._freeze()

    def _init_parameters(self) -> None:
        """Begin as the published classifiers: every linear layer alike, positions at 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def _fit_pos_embed(self, state_dict: dict, prefix: str, *_: object) -> None:
        fit_stored_positions(state_dict, prefix + 'pos_embed', self.grid_size, self.embed_dims)

    @property
    def patch_stride(self) -> tuple[int, int]:
        """See the base class."""
        return self.patch_embed.patch_size, self.patch_embed.patch_size

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the base class."""
        tokens, grid = self.patch_embed(images)
        return tokens + resize_grid(self.pos_embed, self.grid_size, grid), grid

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int], first: int, stop: int) -> Tensor:
        """See the base class."""
        for index in range(first, stop):
            layer = self.layers[index]
            again = self.with_cp and self.training and tokens.requires_grad
            tokens = recompute(layer, layer, tokens, grid) if again else layer(tokens, grid)
        return tokens

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W.

        Returns:
            Maps (B, embed_dims, h, w) with h, w the grid of patches.
        """
        tokens, grid = self.embed(x)
        outputs, done = [], 0
        for index in self.out_indices:
            tokens, done = self.run_blocks(tokens, grid, done, index + 1), index + 1
            y = tokens if self.ln1 is None or done < self.depth else self.ln1(tokens)
            outputs.append(y.transpose(1, 2).unflatten(2, grid).contiguous())  # (B, h * w, C) -> (B, C, h, w)
        return tuple(outputs)
