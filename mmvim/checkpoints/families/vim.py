"""Vim's files, of https://github.com/hustvl/Vim.

Two things are special. The class token stands in the middle of the sequence, so that its position is row 98 of 197 (364
of 730), not row 0. And the dense models keep a pyramid inside the backbone, and a final norm that they never apply.
"""

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, drop, shape_of
from mmvim.checkpoints.families.patches import resample_patches
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.vim import CLASS_TOKENS, Vim
from mmvim.models.layers.patch_embed import PatchEmbed
from mmvim.models.layers.pos_embed import class_rows, fit_positions, read_grid, square_grid
from mmvim.models.layers.ssm_params import resolve_dt_rank

# What the published segmentation recipes take from the blocks, by arch; base has none published.
_DENSE = {
    'tiny': {'feature': 'mixer', 'rope': False},
    'small': {'feature': 'residual', 'rope': True},
}
_DETECTION = {'feature': 'residual', 'rope': True}
_PYRAMID = ('fpn1.', 'fpn2.', 'fpn3.', 'fpn4.')
# Stride of 16 x 16 patches, by the published grids.
_STRIDES: dict[tuple[int, int] | None, int] = {(14, 14): 16, (27, 27): 8}


class VimFamily(Family):
    """Classifiers (224 pixels, stride 16 or 8), the segmentation layout with ``fpn1..4``, the detection backbone.

    A file does not reveal the following; the published values are the defaults:

    - ``cls_token``: where a class token stands, 'middle'. Also 'head'; two tokens have names of their own.
    - ``compat``: None; 'upstream' reproduces the positions that the publisher's dense code takes from a classifier: it
      throws row 0 away, so that the first half of the map is shifted by a patch and one cell has the class token's row.
    - ``grid``: (rows, columns) of the positions. Not needed for files that mmvim wrote, which say it, nor for the
      publisher's, whose grids are square.
    - ``stride``: of the patches; 16 for 14 x 14 positions, 8 for the 27 x 27 of the long-sequence fine-tuning, else
      assumed to be the backbone's.
    - ``patch_change``: 'refuse' a backbone with patches of another size or stride, or 'resample' them.
    - ``img_size``, ``rope``, ``rope_residual``, ``feature``, ``out_indices``: of the model, by the published recipe for
      the arch.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import VimFamily
        >>> from mmvim.models import Vim
        >>> with torch.device('meta'):
        ...     weights = Vim('small').state_dict()
        >>> VimFamily().arch_of(weights), VimFamily().settings(weights)['embed_dims']
        ('small', 384)
    """

    name = 'vim'
    backbone = Vim
    stem = ('patch_embed.proj.weight', 'layers.0.mixer.A_b_log')
    final_norm = 'norm_f.weight'
    neck: ClassVar[dict[str, str]] = {'fpn1.': 'upsample_4x.', 'fpn2.': 'upsample_2x.'}
    never_used: ClassVar[dict[str, str]] = {
        'norm_f.': 'final norm of the classifier, which dense models do not apply',
        'rope.': 'angles of RoPE, computed from the grid',
    }
    records = ('pos_embed_grid',)
    # DeiT's 224 / 256, as in the evaluation code.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    file_options: ClassVar[dict] = {
        'cls_token': 'middle',
        'compat': None,
        'grid': None,
        'stride': None,
        'patch_change': 'refuse',
    }
    config_options: ClassVar[dict] = {
        'img_size': None,
        'rope': None,
        'rope_residual': None,
        'feature': None,
        'out_indices': None,
    }
    numbers: ClassVar[dict[str, tuple[int, ...]]] = {'grid': (2,), 'stride': (0,), 'img_size': (0, 2)}
    choices: ClassVar[dict[str, tuple]] = {
        'cls_token': ('middle', 'head'),
        'compat': (None, 'upstream'),
        'patch_change': ('refuse', 'resample'),
        'rope': (None, True, False),
        'rope_residual': (None, True, False),
    }

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        dims = shape_of(own, r'patch_embed\.proj\.weight', 4)[0]
        inner, states = shape_of(own, r'layers\.\d+\.mixer\.A_log', 2)
        return {
            'embed_dims': dims,
            'depth': count(own, r'layers\.(\d+)\.'),
            'd_state': states,
            'd_conv': shape_of(own, r'layers\.\d+\.mixer\.conv1d\.weight', 3)[2],
            'expand': inner / max(dims, 1),
            'dt_rank': shape_of(own, r'layers\.\d+\.mixer\.dt_proj\.weight', 2)[1],
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        return {**full, 'dt_rank': resolve_dt_rank(full['dt_rank'], full['embed_dims'])}

    def recorded(self, config: dict) -> dict[str, Tensor]:
        """See the base class."""
        if str(config.get('type')).rpartition('.')[2] != self.title:
            return {}
        patch, stride = config.get('patch_size', 16), config.get('stride')
        try:
            embed = PatchEmbed(1, 1, patch, patch if stride is None else stride)
            return {'pos_embed_grid': torch.tensor(embed.grid(*_pair(config.get('img_size', 224))))}
        except (TypeError, ValueError, RuntimeError):  # the config is as trustworthy as the file
            return {}

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, dict | None]:
        """See the base class."""
        tokens, place, grid = _sequence(own, options)
        patch = own['patch_embed.proj.weight'].shape[-1]
        stride = _stride(options, patch, grid) or patch
        config: dict[str, Any] = {'type': 'mmvim.Vim', 'arch': arch}
        size = options['img_size']
        if size is None and grid is not None:
            rows, cols = ((side - 1) * stride + patch for side in grid)
            size = rows if rows == cols else (rows, cols)
        config.update({} if size is None else {'img_size': size}, patch_size=patch, stride=stride)
        pyramid = any(name.startswith((*_PYRAMID, *(f'neck.{here}' for here in self.neck.values()))) for name in own)
        depth = self.settings(own)['depth']
        if kind == 'classifier':
            recipe = {'feature': 'residual', 'rope': False}
            config.update(cls_token=place, out_type='cls_token' if tokens else 'featmap', final_norm=True)
            indices = -1
        elif kind == 'backbone' and not pyramid and not tokens and 'norm_f.weight' in own:
            recipe, indices = _DETECTION, -1  # the layout of the published detection backbone
        elif kind in ('dense', 'segmentor') or pyramid:
            recipe = _DENSE.get(arch if isinstance(arch, str) else '', {'feature': 'residual', 'rope': False})
            # Four equal parts: 5, 11, 17, 23 of 24.
            indices = tuple(sorted({max(depth * part // 4, 1) - 1 for part in range(1, 5)}))
        else:
            recipe, indices = {'feature': 'residual', 'rope': False}, -1
        rotated = recipe['rope'] or any(name.startswith('rope.') for name in own)
        rope = rotated if options['rope'] is None else options['rope']
        dense = kind != 'classifier'
        config.update(
            feature=options['feature'] or recipe['feature'],
            rope=rope,
            rope_residual=(rope and dense) if options['rope_residual'] is None else options['rope_residual'],
            out_indices=indices if options['out_indices'] is None else options['out_indices'],
        )
        if not pyramid:
            return config, None
        return config, {
            'type': 'Feature2Pyramid',
            '_scope_': 'mmseg',
            'embed_dim': self.settings(own)['embed_dims'],
            'rescales': [4, 2, 1, 0.5],
            'norm_cfg': {'type': 'SyncBN', 'requires_grad': True},
        }

    def fit(self, own: dict[str, Tensor], module: Vim, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """See the base class."""
        weights = super().fit(own, module, options, report)
        drop(weights, report, _PYRAMID, 'pyramid inside the published backbone; here it is the neck Feature2Pyramid')
        if not module.rope:
            angles = (name for name in own if name.startswith('rope.'))
            report.dropped.update((name, 'angles of RoPE, which this backbone is built without') for name in angles)
        weights.pop('pos_embed_grid', None)
        sequence = _sequence(own, options, module)
        _fit_patches(weights, module, options, sequence[2], report)
        _fit_positions(weights, module, options, sequence, report)
        if module.pos_embed is not None:
            weights['pos_embed_grid'] = torch.tensor(module.grid_size)
            _note_grid(own, options, sequence[2], report)
        return weights


def _fit_positions(
    weights: OrderedDict[str, Tensor],
    module: Vim,
    options: dict,
    sequence: tuple[list[str], str, tuple[int, int] | None],
    report: Report,
) -> None:
    """Fit the file's class tokens and positions to those of the backbone."""
    tokens, place, grid = sequence
    if grid is None or module.pos_embed is None:
        return
    positions = weights['pos_embed']
    rows = class_rows(place, grid[0] * grid[1])
    ours = module.cls_token_type
    upstream = options['compat'] == 'upstream'
    if upstream and (ours != 'none' or len(rows) != 1):
        raise CheckpointError(
            f"compat='upstream' needs a file with one class token and a backbone that leaves out such tokens: the file "
            f'has {len(rows)} positions of them and the backbone cls_token={ours!r}',
            'leave out compat',
        )
    if ours != 'none' and tokens and place not in ('none', ours):
        raise CheckpointError(
            f'{report.source} has its class token in the place {place!r}, and the backbone has cls_token={ours!r}',
            'set the same in both',
            misfit=True,
        )
    if ours == 'none' and tokens:
        at = f'row {", ".join(map(str, rows))} of {positions.shape[1]}' if rows else 'no position'
        for name in tokens:
            del weights[name]
            report.dropped[name] = f'class token ({at}), which this backbone does not have'
        if upstream:
            rows = (0,)
            report.resized['pos_embed'] = f"compat='upstream': row 0 left out, not {at}"
        elif rows:
            report.resized['pos_embed'] = f"{at} left out, the class token's"
        place = 'none'
    if module.grid_size != grid:
        note = f'{grid[0]} x {grid[1]} to {module.grid_size[0]} x {module.grid_size[1]} cells'
        before = report.resized.get('pos_embed')
        report.resized['pos_embed'] = f'{before}; {note}' if before else note
    new_rows = class_rows(place, module.grid_size[0] * module.grid_size[1])
    weights['pos_embed'] = fit_positions(positions, grid, module.grid_size, rows, new_rows).contiguous()


def _fit_patches(
    weights: OrderedDict[str, Tensor], module: Vim, options: dict, grid: tuple[int, int] | None, report: Report
) -> None:
    """Fit the file's patches to a backbone with patches of another size or stride.

    Raises:
        CheckpointError: If they differ and ``patch_change`` is 'refuse'.
    """
    kernel = weights['patch_embed.proj.weight']
    theirs, ours = tuple(kernel.shape[2:]), tuple(module.patch_embed.patch_size)
    stride, here = _stride(options, theirs[-1], grid), tuple(module.patch_embed.stride)
    same_stride = stride is None or grid == module.grid_size or _pair(stride) == here
    if theirs == ours and same_stride:
        return
    change = (
        f'patches of {theirs[0]} x {theirs[1]}{f" at stride {stride}" if stride else ""}, and the backbone has '
        f'{ours[0]} x {ours[1]} at stride {here[0]}'
    )
    if options['patch_change'] == 'refuse':
        raise CheckpointError(
            f'{report.source} has {change}',
            "give the backbone the file's patch_size and stride, or patch_change='resample' "
            '(stride=... if the stride is another)',
            misfit=True,
        )
    if theirs != ours:
        weights['patch_embed.proj.weight'] = resample_patches(kernel, ours)
        report.resized['patch_embed.proj.weight'] = f'{theirs[0]} x {theirs[1]} to {ours[0]} x {ours[1]} pixels'


def _stride(options: dict, patch: int, grid: tuple[int, int] | None) -> int | None:
    """Return the stride of a file's patches: the user's, else that of a published grid, else None for unknown."""
    if options['stride'] is not None:
        return options['stride']
    return _STRIDES.get(grid) if patch == 16 else None


def _is_published(own: dict[str, Tensor]) -> bool:
    """Return whether names are the publisher's: all of his files have a final norm, which a dense model here lacks."""
    return 'norm_f.weight' in own


def _note_grid(own: dict[str, Tensor], options: dict, grid: tuple[int, int] | None, report: Report) -> None:
    """Record from where the grid of a file's positions was taken, if the file does not say it."""
    if 'pos_embed_grid' in own or grid is None:
        return
    reason = "the argument 'grid'" if options['grid'] else "the publisher's square"
    if not options['grid'] and not _is_published(own):
        reason = "as many positions as the model's grid has"
    report.assumed['pos_embed_grid'] = f'{grid[0]} x {grid[1]}, {reason}'


def _sequence(
    own: dict[str, Tensor], options: dict, module: Vim | None = None
) -> tuple[list[str], str, tuple[int, int] | None]:
    """Find the class tokens, where their positions stand ('none' for nowhere), and the grid of the other positions.

    The grid is what the file says: the record beside the weights, or the config that MMEngine wrote. A file without
    them is the publisher's, whose grids are square; or of the first version of mmvim, and then as many positions as the
    model has are taken to be of the model's grid.

    Args:
        own: All tensors of the file's backbone by its names.
        options: All of ``file_options``.
        module: The backbone to fill. Defaults to None, there is none yet.

    Raises:
        CheckpointError: If the grid is not known, or the positions do not fill it.
    """
    tokens = [name for name in ('cls_token', *CLASS_TOKENS['double']) if name in own]
    _check_origin(own, options, module)
    place = 'none' if not tokens else options['cls_token'] if len(tokens) == 1 else 'double'
    if 'pos_embed' not in own:
        return tokens, place, None
    shape = tuple(own['pos_embed'].shape)
    total = shape[1] if len(shape) == 3 else 0
    for extra, where in ((len(tokens), place), (0, 'none')):  # segmentors keep the token when its position is gone
        grid = _grid(own, options, total - extra)
        if grid is not None:
            return tokens, where, grid
    ours = None if module is None or module.pos_embed is None else tuple(module.pos_embed.shape)
    known = 'pos_embed_grid' in own or options['grid'] or _is_published(own)
    if module is not None and not known and shape == ours and len(tokens) == len(CLASS_TOKENS[module.cls_token_type]):
        return tokens, place, module.grid_size
    if known:
        what = 'the grid that its record has' if 'pos_embed_grid' in own else f'a grid of {options["grid"]}'
        what = what if 'pos_embed_grid' in own or options['grid'] else 'a square grid'
        raise CheckpointError(
            f'pos_embed of shape {shape} beside {len(tokens)} class tokens does not fill {what}',
            'give grid=(rows, columns), or the right file',
            misfit=True,
        )
    raise CheckpointError(
        f'pos_embed of shape {shape} may belong to several grids, and the file does not say to which',
        'give grid=(rows, columns)',
    )


def published_grid(own: dict[str, Tensor], options: dict) -> tuple[int, int] | None:
    """Return the grid of a file's positions; None if it has none.

    Args:
        own: All tensors of the file's backbone by its names.
        options: All of ``file_options``.

    Raises:
        CheckpointError: If the grid is not known, or the positions do not fill it.
    """
    return _sequence(own, options)[2]


def _check_origin(own: dict[str, Tensor], options: dict, module: Vim | None) -> None:
    """Check that it is clear whether the publisher or the first version of mmvim wrote a file.

    Raises:
        CheckpointError: If its positions may be the publisher's square or this backbone's other grid.
    """
    if module is None or module.pos_embed is None or module.norm_f is None:  # its own files have no final norm then
        return
    told = 'pos_embed_grid' in own or options['grid'] or not _is_published(own)
    rows, columns = module.grid_size
    if told or rows == columns or own.get('pos_embed', module.pos_embed).shape != module.pos_embed.shape:
        return
    square = square_grid(rows * columns)
    if square is not None:
        raise CheckpointError(
            f'pos_embed may be of {square[0]} x {square[1]} cells, as in the published files, or of {rows} x '
            f'{columns}, as in this backbone, and the file does not say which',
            f'give grid={square} or grid={module.grid_size}',
        )


def _grid(own: dict[str, Tensor], options: dict, cells: int) -> tuple[int, int] | None:
    """Return the grid of so many cells that a file is known to have, or None.

    Raises:
        CheckpointError: If the user says another grid than the file.
    """
    given = tuple(options['grid']) if options['grid'] else None
    if 'pos_embed_grid' in own:
        grid = read_grid(own['pos_embed_grid'], cells)
        if grid is not None and given not in (None, grid):
            raise CheckpointError(f'grid={given} is not that of the file, which says {grid}', 'omit grid')
        return grid
    if given is not None:
        return given if given[0] * given[1] == cells else None
    return square_grid(cells) if _is_published(own) else None
