"""EfficientVMamba.

'EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba', Pei et al., AAAI 2025,
https://arxiv.org/abs/2403.09977.

Written from the paper and from recorded outputs of the authors' models; the parameters have the names of the published
checkpoints.

What goes wrong upstream without a word, and is right or an error here: the arguments for the number of states and for
the step of the grids do not reach the blocks (here ``d_state`` and ``step``); a checkpoint that does not load is passed
over; the detector's config for T has nine blocks in the third stage and a neck for other channels, neither of which
fits T's checkpoint; S's configs have the width of B (see ``arch``).

Deviations: what the authors compute on maps (B, C, H, W) is computed on (B, H, W, C) in the first two stages, with the
same result.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from mmvim.models.backbones.vss_pyramid import VSSPyramid
from mmvim.models.layers.es2d import ES2D
from mmvim.models.layers.evss_layers import ConvStage, EVSSBlock, InvertedResidual
from mmvim.models.layers.vss_layers import Stage
from mmvim.registry import MODELS

_SCANNED = 2  # stages whose blocks scan; the others are convolutions


@MODELS.register_module()
class EfficientVMamba(VSSPyramid):
    """EfficientVMamba: two stages that scan grids of the map beside convolutions, then two of convolutions alone.

    Args:
        arch: 'tiny', 'small' or 'base'; or a dict with ``depths``, ``dim`` and any of ``d_state`` (16), ``ssm_ratio``
            (2), ``step`` (2, cells from one to the next of a grid) and ``drop_path_rate`` (0.2). 'small' is 64 wide,
            which has the 11 million parameters that were published; 'small-96' is what the published configs of S say,
            which has 24 million. Defaults to 'tiny'.
        in_channels: Channels of the image. Defaults to 3.
        out_indices: Stages whose maps are returned. Defaults to (0, 1, 2, 3).
        out_norm: Normalise each output by a LayerNorm over channels (``outnorm0..3`` of the published dense models).
            Defaults to True.
        final_norm: Normalise the last stage by the LayerNorm of the published classifiers. Defaults to False.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to None, the
            architecture's.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages; frozen parts, batch norms included,
            stay in eval mode. Defaults to -1.
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
        >>> arch = {'depths': (1, 1, 2, 1), 'dim': 8}
        >>> [tuple(feature.shape) for feature in EfficientVMamba(arch).eval()(torch.randn(1, 3, 64, 90))]
        [(1, 8, 16, 22), (1, 16, 8, 11), (1, 32, 4, 6), (1, 64, 2, 3)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'depths': (2, 2, 4, 2), 'dim': 48},
        'small': {'depths': (2, 2, 4, 2), 'dim': 64},
        'small-96': {'depths': (2, 2, 4, 2), 'dim': 96},
        'base': {'depths': (2, 2, 9, 2), 'dim': 96},
    }
    arch_defaults: ClassVar[dict] = {'d_state': 16, 'ssm_ratio': 2, 'step': 2, 'drop_path_rate': 0.2}

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """See the base class."""
        if stage >= _SCANNED:
            return InvertedResidual(dim, drop_path_rate)
        arch = self.arch
        scan = ES2D(dim, arch['step'], arch['d_state'], arch['ssm_ratio'], scan_backend=self.scan_backend)
        return EVSSBlock(dim, scan, drop_path_rate)

    def build_stage(self, stage: int, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> nn.Module:
        """See the base class."""
        return (Stage if stage < _SCANNED else ConvStage)(blocks, downsample)

    def downsample_name(self, stage: int) -> str:
        """See the base class."""
        return f'layers.{stage}.{"downsample" if stage < _SCANNED else self.depths[stage] + 2}'

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """See the base class."""
        name = param_name[len(prefix) :] if param_name.startswith(prefix) else ''
        # In 'layers.2.1.conv_pw' the first block of the third stage.
        match = re.match(r'layers\.(\d+)\.(\d+)\.', name)
        if match is None:
            return super().get_layer_depth(param_name, prefix)
        stage, block = map(int, match.groups())
        return sum(self.depths[:stage]) + min(block, self.depths[stage]), sum(self.depths) + 2
