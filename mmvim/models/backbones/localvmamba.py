"""LocalVMamba.

'LocalMamba: Visual State Space Model with Windowed Selective Scan', Huang et al., https://arxiv.org/abs/2403.09338.

Written from the paper and from recorded outputs of the authors' model; the parameters have the names of the published
checkpoints. Every block scans along four directions that the authors searched for: rows, columns, windows of 2 x 2 and
of 7 x 7, each from either end.

The authors' code puts the columns back in the wrong order where a map is not square, without a word; here any height
and width is right. Where its weights cannot be loaded it trains from scratch; here that is an error.
"""

from typing import ClassVar

from torch import nn

from mmvim.models.backbones.vss_pyramid import VSSPyramid
from mmvim.models.layers.local_scan import LocalScan2D, direction_paths
from mmvim.models.layers.vss_layers import VSSBlock
from mmvim.registry import MODELS

# The published directions, block by block; a letter stands for h, h_flip, v, v_flip, w2, w2_flip, w7, w7_flip.
_LETTERS = dict(zip('hHvVabwW', ('h', 'h_flip', 'v', 'v_flip', 'w2', 'w2_flip', 'w7', 'w7_flip'), strict=True))
_TINY = 'hHwW HVab HVbw HvVa hHVb HVab hbwW hHvV hVwW HvaW vVaW hHVb VbwW HVbW HvwW'
_SMALL = (
    'hvVW hHvw HvVw Hvbw Hvbw HVaW HvVw hvVw hvVw hvVW hHvV '
    'hvVa vVbw hHva HvVW hHvV hvVW hvVW hHVw HVbw HvVW vVwW '
    'hvVW HvVa hvVb hHvw hHwW hVab hVaw hvVW Hvbw HVwW hvwW'
)


def published_directions(letters: str) -> tuple[tuple[str, ...], ...]:
    """Spell out directions that are written as a word of letters for each block.

    Examples:
        >>> published_directions('hHwW vVab')
        (('h', 'h_flip', 'w7', 'w7_flip'), ('v', 'v_flip', 'w2', 'w2_flip'))
    """
    return tuple(tuple(_LETTERS[letter] for letter in word) for word in letters.split())


@MODELS.register_module()
class LocalVMamba(VSSPyramid):
    """LocalVMamba: a pyramid of four stages whose blocks scan the map along directions of their own.

    Args:
        arch: 'tiny' or 'small', or a dict with ``depths``, ``dim`` and any of ``d_state`` (16), ``ssm_ratio`` (2),
            ``directions`` (one list of names for each block, or one for all; see
            :func:`mmvim.models.layers.local_scan.direction_paths`) and ``drop_path_rate`` (0.2). Defaults to 'tiny'.
        in_channels: Channels of the image. Defaults to 3.
        out_indices: Stages whose maps are returned. Defaults to (0, 1, 2, 3).
        out_norm: Normalise each output by a LayerNorm over channels (``outnorm0..3`` of the published dense models).
            Defaults to True.
        final_norm: Normalise the last stage by the LayerNorm of the published classifiers. Defaults to False.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to None, the
            architecture's.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages; frozen parts stay in eval mode.
            Defaults to -1.
        with_cp: Recompute each block in the backward pass to save memory. Defaults to False.
        scan_backend: Backend of the scan, see :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` loads a publisher's file
            as it is; :class:`mmvim.checkpoints.PretrainedBackbone` has its other arguments. Defaults to None.
        build_unused: Build stages that no output needs, too; they are frozen and do not run. For resuming a run whose
            optimizer knows them. Defaults to False.

    Raises:
        ValueError: If an argument is outside what is listed here; the message names it and the choices.

    Examples:
        >>> import torch
        >>> arch = {'depths': (1, 1, 2, 1), 'dim': 8, 'd_state': 2, 'directions': ('h', 'v_flip', 'w7')}
        >>> [tuple(feature.shape) for feature in LocalVMamba(arch).eval()(torch.randn(1, 3, 64, 90))]
        [(1, 8, 16, 22), (1, 16, 8, 11), (1, 32, 4, 6), (1, 64, 2, 3)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'depths': (2, 2, 9, 2), 'dim': 96, 'directions': published_directions(_TINY)},
        'small': {'depths': (2, 2, 27, 2), 'dim': 96, 'directions': published_directions(_SMALL)},
    }
    arch_defaults: ClassVar[dict] = {
        'd_state': 16,
        'ssm_ratio': 2,
        'directions': ('h', 'h_flip', 'w7', 'w7_flip'),
        'drop_path_rate': 0.2,
    }

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """See the base class."""
        directions, number = self.arch['directions'], sum(self.depths[:stage]) + index
        if directions and not isinstance(directions[0], str):
            if len(directions) != sum(self.depths):
                raise ValueError(
                    f'directions has {len(directions)} lists for {sum(self.depths)} blocks; give one for each, or one '
                    'list for all'
                )
            directions = directions[number]
        direction_paths(directions)
        scan = LocalScan2D(dim, directions, self.arch['d_state'], self.arch['ssm_ratio'], self.scan_backend)
        return VSSBlock(dim, scan, mlp_ratio=0, drop_path_rate=drop_path_rate)
