"""PlainMamba's files, of https://github.com/ChenhongyiYang/PlainMamba.

MMClassification and MMSegmentation wrote them: the backbone's names are mmvim's own, behind ``backbone.``, and heads
stand beside it. What they do not say is the grid of the positions, which is square.
"""

import re
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, drop, shape_of
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.plain_mamba import PlainMamba
from mmvim.models.layers.pos_embed import read_grid, resize_grid, square_grid
from mmvim.models.layers.ssm_params import resolve_dt_rank

_RECORD = 'pos_embed_grid'
_STRIDE = 16


class PlainMambaFamily(Family):
    """Classifiers of ImageNet-1K, and the EncoderDecoder files of mmseg.

    A file does not reveal the following; the published values are the defaults:

    - ``grid``: (rows, columns) of the positions. Not needed for files that mmvim wrote, which say it, nor for the
      publisher's, whose grids are square.
    - ``img_size``, ``out_indices``: of the model. A segmentor's norms of outputs tell the blocks.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import PlainMambaFamily
        >>> from mmvim.models import PlainMamba
        >>> with torch.device('meta'):
        ...     weights = PlainMamba('l2').state_dict()
        >>> PlainMambaFamily().arch_of(weights), PlainMambaFamily().settings(weights)['embed_dims']
        ('l2', 384)
    """

    name = 'plainmamba'
    backbone = PlainMamba
    stem = ('patch_embed.projection.weight', 'layers.0.mamba.direction_Bs')
    picture_kernels = ('patch_embed.stem.0.weight',)
    final_norm = 'ln1.weight'
    output_norm = r'norm_layer(\d+)\.'
    adapter_names: ClassVar[tuple[tuple[str, str], ...]] = ((r'^ad_norm(\d)\.', r'norm\1.'),)
    published_adapter_names: ClassVar[tuple[tuple[str, str], ...]] = ((r'^norm(\d)\.', r'ad_norm\1.'),)
    records = (_RECORD,)
    aux_index = 3
    # 224 of 256: the pipeline of Swin, which the authors' configs name.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    file_options: ClassVar[dict] = {'grid': None}
    config_options: ClassVar[dict] = {'img_size': None, 'out_indices': None}
    numbers: ClassVar[dict[str, tuple[int, ...]]] = {'grid': (2,), 'img_size': (0, 2)}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        dims = shape_of(own, r'patch_embed\.projection\.bias', 1)[0]
        inner, states = shape_of(own, r'layers\.\d+\.mamba\.A_log', 2)
        stem = shape_of(own, r'patch_embed\.stem\.0\.weight', 4)
        blocks = {int(match[1]) for match in map(re.compile(r'layers\.(\d+)\.dw\.').match, own) if match}
        return {
            'embed_dims': dims,
            'depth': count(own, r'layers\.(\d+)\.'),
            'd_state': states,
            'd_conv': shape_of(own, r'layers\.\d+\.mamba\.conv2d\.weight', 4)[3],
            'expand': inner / max(dims, 1),
            'dt_rank': shape_of(own, r'layers\.\d+\.mamba\.dt_proj\.weight', 2)[1],
            'stem_dims': stem[0],
            'stem_convs': (count(own, r'patch_embed\.convs\.(\d+)\.') + 1) // 3,  # convolution, norm, activation
            'conv_blocks': tuple(sorted(blocks)),
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        return {
            **full,
            'dt_rank': resolve_dt_rank(full['dt_rank'], full['embed_dims']),
            'conv_blocks': tuple(sorted(full['conv_blocks'])),
        }

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        config: dict[str, Any] = {'type': 'mmvim.PlainMamba', 'arch': arch}
        size, grid = options['img_size'], stored_grid(own, options)
        if size is None and grid is not None:
            size = _STRIDE * grid[0] if grid[0] == grid[1] else (_STRIDE * grid[0], _STRIDE * grid[1])
        config.update({} if size is None else {'img_size': size})
        depth = self.settings(own)['depth']
        normed = {int(match[1]) for match in map(re.compile(self.output_norm).match, own) if match}
        indices: Any = -1
        if normed:
            indices = tuple(sorted(normed | ({depth - 1} if self.final_norm in own else set())))
        elif kind == 'dense':
            # Four equal parts: 5, 11, 17, 23 of 24.
            indices = tuple(sorted({max(depth * part // 4, 1) - 1 for part in range(1, 5)}))
        config['out_indices'] = indices if options['out_indices'] is None else options['out_indices']
        if kind not in ('classifier', 'dense'):
            config.update({} if normed else {'out_norm': False})
            config.update({} if self.final_norm in own else {'final_norm': False})
        return config, None

    def fit(
        self, own: dict[str, Tensor], module: PlainMamba, options: dict, report: Report
    ) -> OrderedDict[str, Tensor]:
        """See the base class."""
        weights = OrderedDict(own)
        if module.ln1 is None and 'ln1.' not in module.not_built:
            drop(weights, report, 'ln1.', 'norm of the last block, which this backbone is built without')
        weights = super().fit(weights, module, options, report)
        grid = stored_grid(own, options)
        if grid is None:
            return weights
        if grid != module.grid_size:
            ours = module.grid_size
            report.resized['pos_embed'] = f'{grid[0]} x {grid[1]} to {ours[0]} x {ours[1]} cells'
            weights['pos_embed'] = resize_grid(weights['pos_embed'], grid, ours).contiguous()
        weights[_RECORD] = torch.tensor(module.grid_size)
        if _RECORD not in own:
            reason = "the argument 'grid'" if options['grid'] else "the publisher's square"
            report.assumed[_RECORD] = f'{grid[0]} x {grid[1]}, {reason}'
        return weights


def stored_grid(own: dict[str, Tensor], options: dict) -> tuple[int, int] | None:
    """Return the grid of a file's positions, or None if there are none.

    Args:
        own: The tensors of the file's backbone by its names.
        options: All of ``file_options``; ``grid`` is what a user says.

    Raises:
        CheckpointError: If it is not known, or the user says another one than the file.

    Examples:
        >>> stored_grid({'pos_embed': torch.zeros(1, 196, 8)}, {'grid': None})
        (14, 14)
    """
    if 'pos_embed' not in own:
        return None
    shape = tuple(own['pos_embed'].shape)
    cells = shape[1] if len(shape) == 3 else 0
    given = tuple(options['grid']) if options['grid'] else None
    if _RECORD in own:
        grid = read_grid(own[_RECORD], cells)
        if grid is not None and given not in (None, grid):
            raise CheckpointError(f'grid={given} is not that of the file, which says {grid}', 'omit grid')
        what = 'the grid that its record has'
    elif given is not None:
        grid, what = (given if given[0] * given[1] == cells else None), f'a grid of {given}'
    else:
        grid, what = square_grid(cells), 'a square grid'
    if grid is None:
        raise CheckpointError(
            f'pos_embed of shape {shape} does not fill {what}',
            'give grid=(rows, columns), or the right file',
            misfit=True,
        )
    return grid
