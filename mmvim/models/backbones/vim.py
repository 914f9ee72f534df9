"""Vision Mamba.

'Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model', Zhu, Liao, Zhang, Wang,
Liu and Wang, ICML 2024, https://arxiv.org/abs/2401.09417.

Written from the paper and from recorded outputs of the authors' models; the parameters have the names of the published
checkpoints. It puts right three things in the authors' dense code: it takes any height and width, treats a class token
in the middle of the sequence as one, and has a layer decay that finds the layers.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmvim.models.backbones.common import block_drop_path_rates, normalize_out_indices, resolve_arch
from mmvim.models.backbones.plain import PlainBackbone
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.patch_embed import PatchEmbed
from mmvim.models.layers.plain_layers import dtype_of
from mmvim.models.layers.pos_embed import (
    class_rows,
    fit_positions,
    insert_rows,
    read_grid,
    rope_tables,
    rotate,
    split_rows,
    square_grid,
)
from mmvim.models.layers.vim_block import VimBlock
from mmvim.registry import MODELS

CLASS_TOKENS = {
    'none': (),
    'middle': ('cls_token',),
    'head': ('cls_token',),
    'double': ('cls_token_head', 'cls_token_tail'),
}


@MODELS.register_module()
class Vim(PlainBackbone):
    """Vision Mamba as a plain backbone: every output has the stride of the patches.

    A head that wants a pyramid needs a neck (``mmseg.Feature2Pyramid``, ``mmvim.SimpleFPN``).

    Args:
        arch: 'tiny' (192 channels), 'small' (384), 'base' (768), all of 24 blocks, or a dict with ``embed_dims``
            and ``depth``, and any of ``d_state`` (16), ``d_conv`` (4), ``expand`` (2), ``dt_rank`` ('auto'). Defaults
            to 'tiny'.
        img_size: Pixels (int or (H, W)) for which the learned positions are stored; inputs of any other size resize
            them on the fly. Defaults to 224.
        patch_size: Side of a patch in pixels. Defaults to 16.
        stride: Distance of patches in pixels. Defaults to None, ``patch_size``.
        in_channels: Channels of the image. Defaults to 3.
        cls_token: Where class tokens stand in the sequence: 'none', 'middle' (the published classifiers), 'head', or
            'double' (head and tail). Maps never contain them. Defaults to 'none'.
        pos_embed: Add learned positions. Defaults to True.
        rope: Rotate the input of every block by a 2-D rotary embedding. Defaults to False.
        rope_residual: Rotate the stream too, as the published dense models with RoPE do (they rotate the sum of stream
            and block output). Needs ``rope``. Defaults to False.
        rope_pt_size: Side, in patches, of the grid whose angles a full image spans. Defaults to 14.
        norm_cfg: Norm layer. Defaults to ``dict(type='mmvim.RMSNorm', eps=1e-5)``.
        residual_in_fp32: Keep the stream in float32 under autocast. Defaults to True.
        if_divide_out: Average the two scan directions rather than add them. Defaults to True.
        feature: 'residual', the stream after a block, or 'mixer', the block's own output. Defaults to 'residual'.
        final_norm: Normalise the last output (``norm_f`` of the checkpoints). Defaults to False.
        out_indices: Blocks after which an output is taken, int or sequence, negative from the end. Defaults to -1.
        out_type: 'featmap' for maps (B, C, h, w), 'cls_token' for class tokens (B, C) ('double': their mean).
            Defaults to 'featmap'.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n blocks; frozen parts stay in eval
            mode. Defaults to -1.
        with_cp: Recompute each block in the backward pass to save memory. Defaults to False.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is; :class:`mmvim.checkpoints.PretrainedBackbone` and
            :class:`mmvim.checkpoints.families.VimFamily` have its other arguments. Defaults to None.
        build_unused: Build blocks that no output needs, too; they are frozen and do not run. For code that wants every
            weight of a complete checkpoint to have its place. Defaults to False.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> model = Vim({'embed_dims': 16, 'depth': 2}, img_size=64, out_indices=(0, 1)).eval()
        >>> [tuple(feature.shape) for feature in model(torch.randn(1, 3, 64, 96))]
        [(1, 16, 4, 6), (1, 16, 4, 6)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'embed_dims': 192, 'depth': 24},
        'small': {'embed_dims': 384, 'depth': 24},
        'base': {'embed_dims': 768, 'depth': 24},
    }
    arch_defaults: ClassVar[dict] = {'d_state': 16, 'd_conv': 4, 'expand': 2, 'dt_rank': 'auto'}
    bare: ClassVar[dict] = {'out_indices': -1, 'feature': 'residual', 'out_type': 'featmap', 'final_norm': False}
    last_norm: ClassVar[str] = 'norm_f'

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_channels: int = 3,
        cls_token: str = 'none',
        pos_embed: bool = True,
        rope: bool = False,
        rope_residual: bool = False,
        rope_pt_size: int = 14,
        norm_cfg: dict | None = None,
        residual_in_fp32: bool = True,
        if_divide_out: bool = True,
        feature: str = 'residual',
        final_norm: bool = False,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        scan_backend: str | None = None,
        init_cfg: dict | list | None = None,
        build_unused: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        settings = resolve_arch(arch, self.arch_zoo, self.arch_defaults)
        self.arch = dict(settings)
        self.embed_dims, self.depth = settings.pop('embed_dims'), settings.pop('depth')
        norm_cfg = norm_cfg or {'type': 'mmvim.RMSNorm', 'eps': 1e-5}
        for name, value, choices in (
            ('cls_token', cls_token, tuple(CLASS_TOKENS)),
            ('feature', feature, ('residual', 'mixer')),
            ('out_type', out_type, ('featmap', 'cls_token')),
        ):
            if value not in choices:
                raise ValueError(f'{name}={value!r} is not one of {choices}')
        if out_type == 'cls_token' and cls_token == 'none':
            raise ValueError("out_type='cls_token' needs a class token: set cls_token to 'middle', 'head' or 'double'")
        if rope_residual and not rope:
            raise ValueError('rope_residual=True rotates the stream as well: it needs rope=True')
        if not -1 <= frozen_stages <= self.depth:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..{self.depth}, the number of blocks')

        self.cls_token_type, self.feature, self.out_type = cls_token, feature, out_type
        self.rope, self.rope_residual, self.rope_pt_size = rope, rope_residual, rope_pt_size
        self.residual_in_fp32, self.frozen_stages, self.with_cp = residual_in_fp32, frozen_stages, with_cp
        self.out_indices = normalize_out_indices(out_indices, self.depth)

        stride = patch_size if stride is None else stride
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size, stride)
        self.grid_size = self.patch_embed.grid(*_pair(img_size))
        for name in CLASS_TOKENS[cls_token]:
            setattr(self, name, nn.Parameter(torch.zeros(1, 1, self.embed_dims)))
        self.pos_embed = None
        if pos_embed:
            tokens = self.grid_size[0] * self.grid_size[1] + len(CLASS_TOKENS[cls_token])
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, self.embed_dims))
            # Travels with the weights: a number of positions does not tell their grid. Nothing computes with it.
            self.register_buffer('pos_embed_grid', torch.tensor(self.grid_size, device='cpu'))
            self._register_load_state_dict_pre_hook(self._fit_pos_embed)

        mixer_cfg = dict(settings, if_divide_out=if_divide_out, scan_backend=scan_backend)
        self.needed = self.out_indices[-1] + 1  # blocks
        rates = block_drop_path_rates(drop_path_rate, self.depth)
        self.layers = nn.ModuleList(
            self.build_block(index, norm_cfg, mixer_cfg, rate)
            for index, rate in enumerate(rates[: self.depth if build_unused else self.needed])
        )
        whole = len(self.layers) == self.depth
        self.norm_f = build_norm(norm_cfg, self.embed_dims) if final_norm and whole else None
        self.not_built = tuple(f'layers.{index}.' for index in range(len(self.layers), self.depth))
        self.not_built += () if whole or not final_norm else ('norm_f.',)
        self._init_parameters()
        self._freeze()

    def build_block(self, index: int, norm_cfg: dict, mixer_cfg: dict, drop_path_rate: float) -> VimBlock:
        """Build block ``index``; a relative with another mixer has its own."""
        return VimBlock(self.embed_dims, norm_cfg, mixer_cfg, drop_path_rate)

    def rotary_tables(self, grid: tuple[int, int], rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (L, C) of the rotary embedding for a grid with class tokens at ``rows``."""
        return rope_tables(*grid, self.embed_dims, self.rope_pt_size, rows, device)

    def _init_parameters(self) -> None:
        """Small random embeddings; output projections scaled by depth (https://arxiv.org/abs/2312.00752, App. E.2)."""
        for name in (*CLASS_TOKENS[self.cls_token_type], 'pos_embed'):
            if getattr(self, name) is not None:
                trunc_normal_(getattr(self, name), std=0.02)
        nn.init.kaiming_normal_(self.patch_embed.proj.weight, nonlinearity='linear')
        nn.init.zeros_(self.get_parameter('patch_embed.proj.bias'))
        with torch.no_grad():
            for index in range(len(self.layers)):
                self.get_parameter(f'layers.{index}.mixer.out_proj.weight').div_(self.depth**0.5)

    def class_rows(self, patches: int) -> tuple[int, ...]:
        """Return the places of the class tokens in a sequence of ``patches`` patches."""
        return class_rows(self.cls_token_type, patches)

    def _fit_pos_embed(self, state_dict: dict, prefix: str, *_: object) -> None:
        """Resize the positions to this model's grid before loading, and drop a class token that it does not have.

        The published classifiers keep the class token in the middle of the sequence, so its position is row 98 of 197,
        not row 0.
        """
        key = prefix + 'pos_embed'
        record = state_dict.pop(key + '_grid', None)
        if self.pos_embed is None:
            return
        state_dict[key + '_grid'] = torch.tensor(self.grid_size, device='cpu')
        stored = state_dict.get(key)
        if stored is None or stored.ndim != 3 or stored.shape[2] != self.embed_dims:
            return  # missing, or another width: load_state_dict reports it
        kind = self.cls_token_type
        if kind == 'none' and (prefix + 'cls_token') in state_dict:
            state_dict.pop(prefix + 'cls_token')
            kind = 'middle'
        patches = stored.shape[1] - len(CLASS_TOKENS[kind])
        # The publisher's files have a final norm and square grids; a classifier's head stands beside the backbone's
        # names, where an OpenMMLab model has it elsewhere.
        published = (prefix + 'norm_f.weight') in state_dict
        head = published and (prefix + 'head.weight') in state_dict
        if record is None and stored.shape == self.pos_embed.shape and not head:
            return  # written by version 0.1.0, for as many positions as here
        square = square_grid(patches) if published else None
        grid = square if record is None else read_grid(record, patches)
        if grid is None:
            raise ValueError(
                f'{key} of the checkpoint has {patches} positions, '
                f'{"and does not say of which grid" if record is None else "which do not fill the grid it records"}; '
                f'this model has {self.grid_size[0]} x {self.grid_size[1]}. Build the model with the img_size and '
                "cls_token that the checkpoint was saved with, or load it by init_cfg=dict(type='Pretrained', "
                'checkpoint=..., grid=(rows, columns))'
            )
        state_dict[key] = self._fit(stored, grid, self.grid_size, kind)

    def _fit(self, positions: Tensor, src: tuple[int, int], dst: tuple[int, int], kind: str) -> Tensor:
        """Fit positions of the grid ``src`` and class tokens ``kind`` to the grid ``dst`` and this model's tokens."""
        return fit_positions(positions, src, dst, class_rows(kind, src[0] * src[1]), self.class_rows(dst[0] * dst[1]))

    def _output(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Shape tokens (B, L, C) into a map (B, C, h, w), or the class token (B, C), in the weights' dtype."""
        tokens = tokens.to(dtype_of(self.patch_embed.proj, tokens.dtype))
        patches, classes = split_rows(tokens, self.class_rows(grid[0] * grid[1]))
        if self.out_type == 'cls_token':
            return classes.mean(dim=1)
        return patches.transpose(1, 2).unflatten(2, grid).contiguous()  # (B, C, h * w) -> (B, C, h, w)

    @property
    def patch_stride(self) -> tuple[int, int]:
        """See the base class."""
        return self.patch_embed.stride

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the base class."""
        tokens, grid = self.patch_embed(images)
        rows = self.class_rows(tokens.shape[1])
        # Each class token (1, 1, C) -> (B, 1, C).
        classes = [getattr(self, name).expand(images.shape[0], -1, -1) for name in CLASS_TOKENS[self.cls_token_type]]
        tokens = insert_rows(tokens, [c.to(tokens.dtype) for c in classes], rows)
        if self.pos_embed is not None:
            tokens = tokens + self._fit(self.pos_embed, self.grid_size, grid, self.cls_token_type)
        return tokens, grid

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int], first: int, stop: int) -> Tensor:
        """See the base class.

        The stream is what the next block would begin with: the sum of the stream and the last block's output, rotated
        if the backbone rotates them before that block.
        """
        return self._run(tokens, grid, first, stop, 'residual', (stop - 1,))[stop - 1]

    def patches_of(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """See the base class."""
        return split_rows(tokens, self.class_rows(grid[0] * grid[1]))[0]

    def with_patches(self, tokens: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """See the base class."""
        rows = self.class_rows(grid[0] * grid[1])
        if not rows:
            return patches
        classes = split_rows(tokens, rows)[1]  # (B, number of them, C)
        return insert_rows(patches, [c.to(patches.dtype) for c in classes.split(1, dim=1)], rows)

    def _run(
        self, tokens: Tensor, grid: tuple[int, int], first: int, stop: int, feature: str, wanted: Sequence[int]
    ) -> dict[int, Tensor]:
        """Run blocks and return the ``feature`` of each one ``wanted``, among them the last of them."""
        tables = None
        if self.rope:
            tables = self.rotary_tables(grid, self.class_rows(grid[0] * grid[1]), tokens.device)
        residual = tokens
        if self.residual_in_fp32:
            residual = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        hidden: Tensor | None = None
        outputs: dict[int, Tensor] = {}
        for index in range(first, stop):
            # What an earlier call returned is rotated already.
            residual = self._rotate(residual, tables, index == 0 or (self.rope_residual and index > first))
            if hidden is not None:
                hidden = self.layers[index - 1].drop_path(self._rotate(hidden, tables))
            hidden, residual = self.layers[index](hidden, residual, self.with_cp and self.training, grid)
            # A block's output joins the stream in the next block.
            done, output = (index, hidden) if feature == 'mixer' else (index - 1, residual)
            if done in wanted:
                outputs[done] = output
        if feature == 'residual' and hidden is not None:
            if stop < self.depth:  # what the next block would begin with
                residual, hidden = self._rotate(residual, tables, self.rope_residual), self._rotate(hidden, tables)
            outputs[stop - 1] = residual + self.layers[stop - 1].drop_path(hidden)
        return outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute one output for each of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W.

        Returns:
            Maps (B, embed_dims, h, w) with h, w the grid of patches, or class tokens (B, embed_dims).
        """
        tokens, grid = self.embed(x)
        outputs = self._run(tokens, grid, 0, self.needed, self.feature, self.out_indices)
        last = self.needed - 1
        if self.norm_f is not None and last == self.depth - 1:
            outputs[last] = self.norm_f(outputs[last])
        return tuple(self._output(outputs[index], grid) for index in self.out_indices)

    @staticmethod
    def _rotate(x: Tensor, tables: tuple[Tensor, Tensor] | None, apply: bool = True) -> Tensor:
        return x if tables is None or not apply else rotate(x, *tables)

    def embeddings(self) -> tuple[str, ...]:
        """See the base class."""
        return ('patch_embed', *CLASS_TOKENS[self.cls_token_type], 'pos_embed')
