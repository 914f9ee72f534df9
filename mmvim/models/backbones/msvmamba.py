"""MSVMamba.

'Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model', Shi et al., NeurIPS 2024,
https://arxiv.org/abs/2405.14174.

Written from the paper and from recorded outputs of the authors' model; the parameters have the names of the published
checkpoints. The authors' detectors and segmentors register their backbone under the name of VMamba's (``MM_VSSM``), and
train from scratch, with a line in the log, where its weights cannot be loaded; here that is an error.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import block_drop_path_rates, freeze, normalize_out_indices, resolve_arch
from mmvim.models.layers.multi_scale_scan import MultiScaleScan2D
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.vss_layers import PatchMerging, Stage, patch_stem
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


class Merging(nn.Module):
    """Half as many cells each way, rounded up, of twice the channels.

    Examples:
        >>> import torch
        >>> Merging(8)(torch.randn(1, 7, 10, 8)).shape
        torch.Size([1, 4, 5, 16])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge, self.norm = PatchMerging(), nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        return self.reduction(self.norm(self.merge(x)))


@MODELS.register_module()
class MSVMamba(Backbone):
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

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        final_norm: bool = False,
        drop_path_rate: float | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        scan_backend: str | None = None,
        init_cfg: dict | list | None = None,
        build_unused: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = settings = resolve_arch(arch, self.arch_zoo, self.arch_defaults)
        depths = tuple(settings['depths'])
        if len(depths) != 4 or any(not isinstance(depth, int) or depth < 1 for depth in depths):
            raise ValueError(f'depths={depths!r} must be four positive ints, one a stage')
        if not -1 <= frozen_stages <= 4:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..4, the number of stages')
        self.out_indices = normalize_out_indices(out_indices, 4)
        if final_norm and 3 not in self.out_indices:
            raise ValueError(f'final_norm=True normalises stage 3, which out_indices={out_indices!r} leaves out')
        self.frozen_stages, self.with_cp, self.depths, self.out_norm = frozen_stages, with_cp, depths, out_norm
        self.dims = tuple(settings['dim'] * 2**i for i in range(4))
        scan = {'d_state': settings['d_state'], 'expand': settings['ssm_ratio'], 'scan_backend': scan_backend}
        rate = settings['drop_path_rate'] if drop_path_rate is None else drop_path_rate
        rates = iter(block_drop_path_rates(rate, sum(depths)))
        last = self.out_indices[-1]  # the last stage that an output needs

        self.patch_embed = patch_stem(in_channels, self.dims[0])
        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(self.dims, depths, strict=True)):
            blocks = [
                Block(dim, MultiScaleScan2D(dim, **scan), int(dim * settings['ffn_ratio']), next(rates))
                for _ in range(depth)
            ]
            self.layers.append(Stage(blocks, Merging(dim) if i < (3 if build_unused else last) else None))
            if i == last and not build_unused:
                break
        if len(self.layers) < 4:
            self.not_built = (f'layers.{last}.downsample.', *(f'layers.{i}.' for i in range(last + 1, 4)))
        self.not_built += tuple(f'outnorm{i}.' for i in range(4) if out_norm and i not in self.out_indices)
        self.norm = nn.LayerNorm(self.dims[3]) if final_norm else None
        for i in self.out_indices if out_norm else ():
            self.add_module(f'outnorm{i}', build_norm({'type': 'LN', 'eps': 1e-5}, self.dims[i]))
        self._init_parameters()
        self._freeze()

    def _init_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W of at least 4.

        Returns:
            Maps (B, dim * 2 ** i, ceil(h / 2 ** i), ceil(w / 2 ** i)), i the stage, where h x w are the cells at stride
            4: floor(H / 4) x floor(W / 4).
        """
        x = self.patch_embed(x)
        outputs = []
        for i, layer in enumerate(self.layers):
            x = layer(x, self.with_cp and self.training)
            if i in self.out_indices:
                y = self.norm(x) if i == 3 and self.norm is not None else x
                y = getattr(self, f'outnorm{i}')(y) if self.out_norm else y
                # (B, H, W, C) -> (B, C, H, W)
                outputs.append(y.permute(0, 3, 1, 2).contiguous())
            if i == self.out_indices[-1]:
                break
            x = layer.downsample(x)
        return tuple(outputs)

    def _freeze(self) -> None:
        if self.frozen_stages >= 0:
            freeze(self.patch_embed, *self.layers[: self.frozen_stages])
        last = self.out_indices[-1]
        freeze(*self.layers[last + 1 :])
        if last + 1 < len(self.layers):
            freeze(self.get_submodule(f'layers.{last}.downsample'))

    def train(self, mode: bool = True) -> 'MSVMamba':
        """Set the training mode; frozen parts stay in eval mode."""
        super().train(mode)
        self._freeze()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth for layer-wise learning rates: the stem 0, one more each block, output norms last.

        Args:
            param_name: Full name of the parameter.
            prefix: What stands before this backbone's own names. Defaults to ''.

        Returns:
            The parameter's depth, and the number of depths (blocks + 2). A stage's downsampling has the depth of its
            last block.
        """
        depths = sum(self.depths) + 2
        name = param_name[len(prefix) :] if param_name.startswith(prefix) else ''
        if name.startswith('patch_embed.'):
            return 0, depths
        if name.startswith('layers.'):
            _, stage, part, index, *_ = name.split('.')
            block = int(index) if part == 'blocks' else self.depths[int(stage)] - 1
            return sum(self.depths[: int(stage)]) + block + 1, depths
        return depths - 1, depths
