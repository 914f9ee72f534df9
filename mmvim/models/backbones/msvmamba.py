"""MSVMamba.

'Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model', Shi et al., NeurIPS 2024,
https://arxiv.org/abs/2405.14174.

Written from the paper and from recorded outputs of the authors' model; the parameters have the names of the published
checkpoints. The authors' detectors and segmentors register their backbone under the name of VMamba's (``MM_VSSM``), and
train from scratch, with a line in the log, where its weights cannot be loaded; here that is an error.
"""

from typing import ClassVar

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmvim.models.backbones.vss_pyramid import VSSPyramid
from mmvim.models.layers.multi_scale_scan import MultiScaleScan2D
from mmvim.registry import MODELS


class ConvFFN(nn.Module):
    """Two 1 x 1 convolutions with a depthwise one, residual, and GELU between them.

    Examples:
        >>> import torch
        >>> ConvFFN(8, hidden=16)(torch.randn(1, 3, 5, 8)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
        self.dwc = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = self.linear1(x.permute(0, 3, 1, 2))
        return self.linear2(F.gelu(x + self.dwc(x))).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Multi-scale scan and convolutional MLP, each pre-normed and residual.

    Args:
        dim: Channels.
        op: The scan, on maps (B, C, H, W).
        hidden: Hidden channels of the MLP.
        drop_path_rate: Stochastic depth rate.

    Examples:
        >>> import torch
        >>> Block(8, MultiScaleScan2D(8), hidden=16, drop_path_rate=0.0)(torch.randn(1, 3, 5, 8)).shape
        torch.Size([1, 3, 5, 8])
    """

    def __init__(self, dim: int, op: nn.Module, hidden: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm, self.op, self.drop_path = nn.LayerNorm(dim), op, DropPath(drop_path_rate)
        self.norm2, self.convFFN = nn.LayerNorm(dim), ConvFFN(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.op(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return x + self.drop_path(self.convFFN(self.norm2(x)))


@MODELS.register_module()
class MSVMamba(VSSPyramid):
    """MSVMamba: a pyramid of four stages whose blocks scan the map, and once more at half resolution.

    Args:
        arch: 'nano', 'micro' or 'tiny'; or a dict with ``depths``, ``dim`` and any of ``d_state`` (1), ``ssm_ratio``
            (2), ``ffn_ratio`` (2) and ``drop_path_rate`` (0.2). Defaults to 'tiny'.
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
        >>> arch = {'depths': (1, 1, 2, 1), 'dim': 8}
        >>> [tuple(feature.shape) for feature in MSVMamba(arch).eval()(torch.randn(1, 3, 64, 90))]
        [(1, 8, 16, 22), (1, 16, 8, 11), (1, 32, 4, 6), (1, 64, 2, 3)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'nano': {'depths': (1, 2, 5, 2), 'dim': 48},
        'micro': {'depths': (1, 2, 5, 2), 'dim': 64},
        'tiny': {'depths': (1, 2, 9, 2), 'dim': 96},
    }
    arch_defaults: ClassVar[dict] = {'d_state': 1, 'ssm_ratio': 2, 'ffn_ratio': 2, 'drop_path_rate': 0.2}

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> Block:
        """See the base class."""
        arch = self.arch
        scan = MultiScaleScan2D(dim, arch['d_state'], arch['ssm_ratio'], scan_backend=self.scan_backend)
        return Block(dim, scan, int(dim * arch['ffn_ratio']), drop_path_rate)
