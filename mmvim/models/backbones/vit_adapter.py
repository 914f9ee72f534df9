"""ViT-Adapter.

'Vision Transformer Adapter for Dense Predictions', Chen et al., ICLR 2023, https://arxiv.org/abs/2205.08534, as the
dense models of Vision-RWKV have it: 'Vision-RWKV: Efficient and Scalable Visual Perception with RWKV-Like
Architectures', Duan et al., ICLR 2025, https://arxiv.org/abs/2403.02308.

Written from the papers and from recorded outputs of the authors' models; the adapter's parameters have the names of the
published checkpoints, which have the backbone's among them, without ``plain.``. Two things are put right: images may
have any height and width (the authors' code stops with an assertion unless 32 divides both), and the two ways in which
their segmentors and detectors make the outputs, to which the same weights fit, are an argument (``fuse``).
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import normalize_out_indices
from mmvim.models.backbones.plain import PlainBackbone
from mmvim.models.layers.adapter_layers import (
    Extractor,
    Geometry,
    Injector,
    Interaction,
    SpatialPrior,
    split_maps,
    to_map,
    to_tokens,
)
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.plain_layers import dtype_of
from mmvim.models.layers.plain_layout import PlainLayout
from mmvim.registry import MODELS

STRIDES = (4, 8, 16, 32)  # of the outputs
_PLAIN = 'plain.'


def equal_groups(depth: int, number: int = 4) -> tuple[tuple[int, int], ...]:
    """Return the (first, last) blocks of so many equal groups of ``depth`` blocks.

    Raises:
        ValueError: If the groups cannot be equal.

    Examples:
        >>> equal_groups(12)
        ((0, 2), (3, 5), (6, 8), (9, 11))
    """
    if depth < number or depth % number:
        raise ValueError(f'{depth} blocks do not make {number} equal groups: give groups=((first, last), ...)')
    size = depth // number
    return tuple((first, first + size - 1) for first in range(0, depth, size))


@MODELS.register_module()
class ViTAdapter(Backbone):
    """A plain backbone with an adapter beside it, which together return the pyramid that dense heads want.

    A pyramid of convolutions over the image exchanges features with the backbone's patches: before each group of blocks
    an injector brings features of the pyramid (strides 8, 16 and 32) into the patches, after it an extractor takes
    features of the patches into the pyramid, both by deformable attention. Class tokens, which the backbone may have,
    pass the adapter by.

    Any backbone of mmvim serves that is a :class:`mmvim.models.backbones.plain.PlainBackbone` with patches of stride
    16. It is built without norms of outputs and of its end, which the adapter does not have either. "Patches after a
    group" are its stream there: with :class:`mmvim.Vim`, the sum of the stream and the last mixer's output.

    Images are padded with zeros at their bottom and right to sides that 32 divides, and the outputs are cropped. Where
    32 divides the sides, the outputs are those of the authors' models.

    Args:
        backbone: Config of the plain backbone, such as ``dict(type='mmvim.VRWKV', arch='tiny')``. Its own ``init_cfg``
            may name a classifier's file.
        groups: (first, last) block of each group; they must cover all blocks in order. Defaults to None, four equal
            groups.
        num_heads: Heads of each deformable attention. Defaults to 6.
        num_points: Points for each head and map. Defaults to 4.
        value_ratio: Channels of the attention's values over those of a token. Defaults to 1.0.
        ffn_ratio: Channels inside the convolutional feed-forward networks over those of a token. Defaults to 0.25.
        conv_dims: Channels of the first convolutions on the image. Defaults to 64.
        init_value: What each injector is scaled by at the start. With 0, the backbone starts as it is without adapter.
            Defaults to 0.0.
        extra_extractors: Extractors that follow the last group's own. Defaults to 2.
        fuse: Which patches are added to the outputs: 'groups', those after group i to output i, as published
            segmentors do (there must be four groups), or 'last', those after the last group to every output, as
            published detectors do. The same weights fit both, and are right in one. Defaults to 'groups'.
        out_indices: Which of the outputs of strides 4, 8, 16 and 32 are returned. Defaults to (0, 1, 2, 3).
        drop_path_rate: Stochastic depth rate of the feed-forward network in each extractor, the same in all; that of
            the backbone's blocks is in ``backbone``. Defaults to 0.
        norm_cfg: Norm layer of the convolutions and of the outputs. Defaults to None, ``dict(type='BN')``.
        with_cp: Recompute injectors and extractors in the backward pass to save memory; the backbone has a ``with_cp``
            of its own. Defaults to False.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is: a segmentor's or detector's with adapter, or a classifier's, which has weights of the backbone
            alone. :class:`mmvim.checkpoints.PretrainedBackbone` has its other arguments. Defaults to None.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> plain = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 16, 'depth': 4}, 'img_size': 64}
        >>> model = ViTAdapter(plain, num_heads=2, conv_dims=8).eval()
        >>> [tuple(feature.shape) for feature in model(torch.randn(1, 3, 64, 90))]
        [(1, 16, 16, 23), (1, 16, 8, 12), (1, 16, 4, 6), (1, 16, 2, 3)]
    """

    fusions: ClassVar[tuple[str, ...]] = ('groups', 'last')

    def __init__(
        self,
        backbone: dict,
        groups: Sequence[Sequence[int]] | None = None,
        num_heads: int = 6,
        num_points: int = 4,
        value_ratio: float = 1.0,
        ffn_ratio: float = 0.25,
        conv_dims: int = 64,
        init_value: float = 0.0,
        extra_extractors: int = 2,
        fuse: str = 'groups',
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must lie in [0, 1)')
        for name, number, least in (
            ('num_points', num_points, 1),
            ('conv_dims', conv_dims, 1),
            ('extra_extractors', extra_extractors, 0),
        ):
            if number < least:
                raise ValueError(f'{name}={number} must be at least {least}')
        if fuse not in self.fusions:
            raise ValueError(f'fuse={fuse!r} is not one of {self.fusions}')
        self.out_indices = normalize_out_indices(out_indices, len(STRIDES))
        self.fuse, self.with_cp = fuse, with_cp
        norm_cfg = norm_cfg or {'type': 'BN'}

        self.plain = _build_plain(backbone)
        dims = self.embed_dims = self.plain.embed_dims
        if int(dims * ffn_ratio) < 1:
            raise ValueError(f'ffn_ratio={ffn_ratio} leaves nothing of the {dims} channels of a token')
        self.groups = _check_groups(groups, self.plain.depth)
        if fuse == 'groups' and len(self.groups) != len(STRIDES):
            raise ValueError(
                f"fuse='groups' adds one group's patches to each of the four outputs, and there are "
                f"{len(self.groups)} groups: give four, or fuse='last'"
            )

        finest = 0 in self.out_indices
        self.spm = SpatialPrior(backbone.get('in_channels', 3), dims, conv_dims, norm_cfg, finest)
        self.level_embed = nn.Parameter(torch.empty(3, dims))

        def extractor() -> Extractor:
            return Extractor(dims, num_heads, num_points, value_ratio, ffn_ratio, drop_path_rate)

        last = len(self.groups) - 1
        self.interactions = nn.ModuleList(
            Interaction(
                Injector(dims, num_heads, num_points, value_ratio, init_value),
                [extractor() for _ in range(1 + (extra_extractors if index == last else 0))],
                with_cp,
            )
            for index in range(len(self.groups))
        )
        self.up = nn.ConvTranspose2d(dims, dims, 2, 2) if finest else None
        for index in self.out_indices:
            self.add_module(f'norm{index + 1}', build_norm(norm_cfg, dims))
        self.not_built = tuple(f'norm{index + 1}.' for index in range(len(STRIDES)) if index not in self.out_indices)
        self.not_built += () if finest else ('spm.fc1.', 'up.')
        # Travels with the weights, which fit either way of making the outputs. Nothing computes with it.
        self.register_buffer('fuse_last', torch.tensor(int(fuse == 'last'), device='cpu'))
        self._register_load_state_dict_pre_hook(self._take_published)
        self._init_parameters()

    def _init_parameters(self) -> None:
        """Begin as the published models; the attentions and the backbone have their own beginnings."""
        nn.init.normal_(self.level_embed)
        parts = [self.spm, self.up, *(e.ffn for e in self.modules() if isinstance(e, Extractor))]
        for module in (layer for part in parts if part is not None for layer in part.modules()):
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                kernel = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=(2 * module.groups / (kernel * module.out_channels)) ** 0.5)
            elif isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def _take_published(self, state_dict: dict, prefix: str, *_: object) -> None:
        """Give the backbone's weights their names here, and warn if the outputs are made in the other way."""
        if not any(name.startswith(prefix + _PLAIN) for name in state_dict):
            parts = {name.split('.')[0] for name in self.plain.state_dict()}
            for name in [name for name in state_dict if name.startswith(prefix)]:
                bare = name[len(prefix) :]
                if bare.split('.')[0] in parts:
                    state_dict[prefix + _PLAIN + bare] = state_dict.pop(name)
        record = prefix + 'fuse_last'
        fuse = self.fusions[int(state_dict[record])] if record in state_dict else None
        if fuse not in (None, self.fuse):
            warnings.warn(
                f'these weights were trained with fuse={fuse!r}, and this adapter has fuse={self.fuse!r}: its outputs '
                'are others until it is trained',
                stacklevel=2,
            )
        state_dict[record] = self.fuse_last.clone()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W.

        Returns:
            Maps (B, embed_dims, ceil(H / s), ceil(W / s)) for the strides s of 4, 8, 16 and 32.
        """
        height, width = x.shape[2:]
        rows, columns = -(-height // 32), -(-width // 32)
        x = F.pad(x, (0, 32 * columns - width, 0, 32 * rows - height))
        geometry = Geometry.of((rows, columns), torch.promote_types(x.dtype, torch.float32), x.device)
        c1, *maps = self.spm(x)
        pyramid = torch.cat([to_tokens(y) + e for y, e in zip(maps, self.level_embed, strict=True)], dim=1)
        pyramid, streams = self._interact(x, pyramid, geometry)

        levels = [None, *split_maps(pyramid, geometry.maps)]
        if self.up is not None:
            levels[0] = self.up(levels[1]) + c1
        outputs = []
        for index in self.out_indices:
            stride, level = STRIDES[index], levels[index]
            assert level is not None
            patches = to_map(streams[index if self.fuse == 'groups' else -1], geometry.grid).to(level.dtype)
            if stride != 16:
                patches = F.interpolate(patches, scale_factor=16 / stride, mode='bilinear', align_corners=False)
            norm = self.get_submodule(f'norm{index + 1}')
            # On tokens' maps a CPU's batch norm computes wrong gradients, unless both of its sides are laid out alike.
            y = PlainLayout.apply(level + patches)
            y = PlainLayout.apply(norm(y.to(dtype_of(norm, y.dtype))))
            outputs.append(y[:, :, : -(-height // stride), : -(-width // stride)].contiguous())
        return tuple(outputs)

    def _interact(self, x: Tensor, pyramid: Tensor, geometry: Geometry) -> tuple[Tensor, list[Tensor]]:
        """Run backbone and adapter.

        Args:
            x: Images, whose sides 32 divides.
            pyramid: (B, L, C).
            geometry: Where the tokens lie.

        Returns:
            The pyramid at the end, and the patches (B, h * w, C) after each group.
        """
        plain, streams = self.plain, []
        tokens, grid = plain.embed(x)
        for interaction, (first, last) in zip(self.interactions, self.groups, strict=True):
            patches = interaction.inject(plain.patches_of(tokens, grid), pyramid, geometry)
            tokens = plain.run_blocks(plain.with_patches(tokens, patches, grid), grid, first, last + 1)
            patches = plain.patches_of(tokens, grid)
            pyramid = interaction.extract(pyramid, patches, geometry)
            streams.append(patches)
        return pyramid, streams

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth for layer-wise learning rates: the backbone's own, all of the adapter last.

        Args:
            param_name: Full name of the parameter.
            prefix: What stands before this backbone's own names. Defaults to ''.

        Returns:
            The parameter's depth, and the number of depths (blocks + 2).
        """
        depth, depths = self.plain.get_layer_depth(param_name, prefix + _PLAIN)
        return (depth if param_name.startswith(prefix + _PLAIN) else depths - 1), depths


def _build_plain(cfg: dict) -> PlainBackbone:
    """Build the backbone without what the adapter does not run.

    Raises:
        ValueError: If it is no plain backbone of stride 16, or is configured for outputs of its own.
    """
    kinds = sorted(
        f'mmvim.{name}' for name, kind in MODELS.module_dict.items() if issubclass(_class_of(kind), PlainBackbone)
    )
    given: Any = cfg.get('type') if hasattr(cfg, 'get') else None
    kind = _class_of(MODELS.get(given) if isinstance(given, str) else given)
    if not issubclass(kind, PlainBackbone):
        raise ValueError(f'backbone={cfg!r} must be the config of a plain backbone, of type {", ".join(kinds)}')
    for name, value in kind.bare.items():
        if name in cfg and cfg[name] != value:
            raise ValueError(
                f'backbone.{name}={cfg[name]!r} is not read inside an adapter, which takes the stream between groups: '
                'leave it out'
            )
    plain = MODELS.build({**cfg, **kind.bare})
    if plain.patch_stride != (16, 16):
        raise ValueError(
            f"the backbone's patches have the stride {plain.patch_stride}, and the adapter's maps lie around 16: "
            'build it with patch_size=16'
        )
    return plain


def _class_of(kind: Any) -> type:
    return kind if isinstance(kind, type) else type(None)


def _check_groups(groups: Sequence[Sequence[int]] | None, depth: int) -> tuple[tuple[int, int], ...]:
    """Return groups of blocks as pairs, or raise a ValueError if they do not cover all blocks in order."""
    if groups is None:
        return equal_groups(depth)
    pairs = [tuple(group) for group in groups]
    begin = 0
    for pair in pairs:
        if len(pair) != 2 or pair[0] != begin or not begin <= pair[1] < depth:
            break
        begin = pair[1] + 1
    if begin != depth or not pairs:
        raise ValueError(
            f'groups={groups!r} must be (first, last) pairs that cover the blocks 0..{depth - 1} in order, such as '
            f'{equal_groups(depth, 1)!r}'
        )
    return tuple((first, last) for first, last in pairs)
