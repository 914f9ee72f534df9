"""LocalVim.

'LocalMamba: Visual State Space Model with Windowed Selective Scan', Huang et al., https://arxiv.org/abs/2403.09338.

Written from the paper and from recorded outputs of the authors' model; the parameters have the names of the published
checkpoints. Vim whose mixer scans the grid along four directions, which the authors searched for block by block.

The authors' code puts the columns back in the wrong order where a grid is not square, without a word; here any height
and width is right. Their layer decay finds no block (it looks for ``blocks``, and they are ``layers``); here it does.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.localvmamba import published_directions
from mmvim.models.backbones.vim import Vim
from mmvim.models.layers.local_scan import LocalVimMixer, direction_paths
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.pos_embed import resize_grid, rope_tables
from mmvim.models.layers.vim_block import VimBlock
from mmvim.registry import MODELS

# The published directions, block by block, of T and S alike.
_SEARCHED = published_directions(
    'hVwW HbwW hHvw hHvV hHvV hHvV HvVw HvVb hHvV hHvV hvVa hvVb hHVw HvVa hHvV hvab vVaw hHva hHbw vVab'
)


def quarters(depth: int) -> tuple[int, ...]:
    """Return the blocks that end the four quarters of so many, fewer if there are fewer.

    Examples:
        >>> quarters(20), quarters(2)
        ((4, 9, 14, 19), (0, 1))
    """
    return tuple(sorted({max(depth * part // 4, 1) - 1 for part in range(1, 5)}))


class LocalVimBlock(VimBlock):
    """:class:`VimBlock` with a :class:`LocalVimMixer`, which needs to know the grid.

    Examples:
        >>> import torch
        >>> block = LocalVimBlock(8, {'type': 'LN'}, {'d_state': 4, 'directions': ('h', 'w2')}, drop_path_rate=0.0)
        >>> hidden, residual = block(None, torch.randn(2, 15, 8), grid=(3, 5))
        >>> hidden.shape
        torch.Size([2, 15, 8])
    """

    mixer_type: ClassVar[type[nn.Module]] = LocalVimMixer

    def mix(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """See the base class."""
        return self.mixer(tokens, grid)


@MODELS.register_module()
class LocalVim(Vim):
    """LocalVim: a plain backbone whose blocks scan the grid along directions of their own.

    Args:
        arch: 'tiny' (192 channels) or 'small' (384), of 20 blocks, or a dict with ``embed_dims`` and ``depth``, and any
            of ``directions`` (one list of names for each block, or one for all; see
            :func:`mmvim.models.layers.local_scan.direction_paths`), ``d_state`` (16), ``d_conv`` (4), ``expand`` (2),
            ``dt_rank`` ('auto'). Defaults to 'tiny'.
        img_size: Pixels (int or (H, W)) for which the learned positions are stored; inputs of any other size resize
            them on the fly. Defaults to 224.
        patch_size: Side of a patch in pixels. Defaults to 16.
        in_channels: Channels of the image. Defaults to 3.
        norm_cfg: Norm layer of the blocks. Defaults to ``dict(type='LN', eps=1e-5)``, that of the published dense
            models; their classifiers have ``dict(type='mmvim.RMSNorm', eps=1e-5)``.
        feature: 'mixer', a block's own output, as the published dense models take it, or 'residual', the stream after
            it. Defaults to 'mixer'.
        out_norm: Normalise each output by a LayerNorm, ``outnorm_0..3`` after the four quarters as in the published
            dense models, ``outnorm_after<block>`` elsewhere. Defaults to True.
        final_norm: Normalise the last output (``norm_f`` of the classifiers). Defaults to False.
        out_indices: Blocks after which an output is taken, int or sequence, negative from the end. Defaults to None,
            those that end the four quarters: (4, 9, 14, 19) of 20.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n blocks; frozen parts stay in eval
            mode. Defaults to -1.
        with_cp: Recompute each block in the backward pass to save memory. Defaults to False.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is; :class:`mmvim.checkpoints.PretrainedBackbone` has its other arguments. Defaults to None.
        build_unused: Build blocks that no output needs, too; they are frozen and do not run. For resuming a run whose
            optimizer knows them. Defaults to False.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> import torch
        >>> arch = {'embed_dims': 16, 'depth': 2, 'd_state': 2, 'directions': ('h', 'v_flip', 'w7')}
        >>> model = LocalVim(arch, img_size=64, out_indices=(0, 1)).eval()
        >>> [tuple(feature.shape) for feature in model(torch.randn(1, 3, 64, 96))]
        [(1, 16, 4, 6), (1, 16, 4, 6)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'embed_dims': 192, 'depth': 20, 'directions': _SEARCHED},
        'small': {'embed_dims': 384, 'depth': 20, 'directions': _SEARCHED},
    }
    arch_defaults: ClassVar[dict] = {**Vim.arch_defaults, 'directions': ('h', 'h_flip', 'w7', 'w7_flip')}
    bare: ClassVar[dict] = {'out_indices': -1, 'feature': 'residual', 'out_norm': False, 'final_norm': False}

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        norm_cfg: dict | None = None,
        feature: str = 'mixer',
        out_norm: bool = True,
        final_norm: bool = False,
        out_indices: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        scan_backend: str | None = None,
        init_cfg: dict | list | None = None,
        build_unused: bool = False,
    ) -> None:
        depth = resolve_arch(arch, self.arch_zoo, self.arch_defaults)['depth']
        if out_indices is None:
            out_indices = quarters(depth)
        super().__init__(
            arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            rope=True,
            rope_residual=True,
            norm_cfg=norm_cfg or {'type': 'LN', 'eps': 1e-5},
            feature=feature,
            final_norm=final_norm,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            scan_backend=scan_backend,
            init_cfg=init_cfg,
            build_unused=build_unused,
        )
        ends = quarters(depth)
        self.norm_names = tuple(
            f'outnorm_{ends.index(index)}' if index in ends else f'outnorm_after{index}' for index in self.out_indices
        )
        self.out_norm = out_norm
        for name in self.norm_names if out_norm else ():
            self.add_module(name, build_norm({'type': 'LN', 'eps': 1e-5}, self.embed_dims))
        published = (f'outnorm_{number}' for number in range(len(ends)))
        self.not_built += tuple(f'{name}.' for name in published if out_norm and name not in self.norm_names)

    def build_block(self, index: int, norm_cfg: dict, mixer_cfg: dict, drop_path_rate: float) -> LocalVimBlock:
        """See the base class."""
        settings = {name: value for name, value in mixer_cfg.items() if name != 'if_divide_out'}
        directions = settings.pop('directions')
        if directions and not isinstance(directions[0], str):
            if len(directions) != self.depth:
                raise ValueError(
                    f'directions has {len(directions)} lists for {self.depth} blocks; give one for each, or one list '
                    'for all'
                )
            directions = directions[index]
        direction_paths(directions)
        return LocalVimBlock(self.embed_dims, norm_cfg, {**settings, 'directions': directions}, drop_path_rate)

    def rotary_tables(self, grid: tuple[int, int], rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of the pre-training's grid, cosines and sines themselves resized, as the authors do."""
        side = self.rope_pt_size
        tables = rope_tables(side, side, self.embed_dims, side, (), device)
        cos, sin = (resize_grid(table[None], (side, side), grid)[0] for table in tables)
        return cos, sin

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute one output for each of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W.

        Returns:
            Maps (B, embed_dims, h, w) with h, w the grid of patches.
        """
        maps = super().forward(x)
        if not self.out_norm:
            return maps
        return tuple(
            getattr(self, name)(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
            for name, y in zip(self.norm_names, maps, strict=True)
        )
