"""VMamba.

'VMamba: Visual State Space Model', Liu et al., NeurIPS 2024, https://arxiv.org/abs/2401.10166.

Written from the paper and from recorded outputs of the authors' models; the parameters have the names of the published
checkpoints. There are two releases. The first ('v0') has 16 states, gates its scans and has no MLP; the second ('v2')
has one state, an MLP in each block and no gate. The models of the second have names such as T[s1l8]: the inner channels
of a scan are once the block's (s1), and the third stage has eight blocks (l8).

Deviations: what the authors compute on maps (B, C, H, W) is computed on (B, H, W, C) here, with the same result, and
1 x 1 convolutions are linear layers.

What goes wrong without a word upstream, and not here: the published loader prints whatever hinders it and leaves the
weights random, where a file here is fitted completely or refused; and the published dense configs merge into those of
Swin, so that the first release's models, whose configs name no ``drop_path_rate``, were trained with Swin's (0.3 in
segmentation, 0.2 in detection). The recipes in ``configs/vmamba`` state the rate that was in force.
"""

from typing import ClassVar

from torch import nn

from mmvim.models.backbones.vss_pyramid import VSSPyramid
from mmvim.models.layers.selective_scan_2d import SelectiveScan2D
from mmvim.models.layers.vss_layers import PatchMerging, Permute, VSSBlock, to_cells
from mmvim.registry import MODELS

_FIRST = {'d_state': 16, 'ssm_ratio': 2, 'mlp_ratio': 0, 'release': 'v0'}
_MATRICES = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight')
_PROJECTIONS = ('x_proj.weight', 'dt_projs.weight')


@MODELS.register_module()
class VMamba(VSSPyramid):
    """VMamba: a pyramid of four stages whose blocks scan the map along rows and columns, forwards and backwards.

    Args:
        arch: 'tiny' (T[s1l8]), 'tiny-s2l5', 'small' (S[s2l15]), 'small-s1l20', 'base' (B[s2l15]), 'base-s1l20', or
            'vanilla-tiny', 'vanilla-small', 'vanilla-base' of the first release; or a dict with ``depths``, ``dim`` and
            any of ``d_state`` (1), ``ssm_ratio`` (1), ``mlp_ratio`` (4), ``drop_path_rate`` (0.2) and ``release``
            ('v2'; 'v0' for stem, downsampling, gate and biases of the first). Defaults to 'tiny'.
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
        >>> [tuple(feature.shape) for feature in VMamba(arch).eval()(torch.randn(1, 3, 64, 90))]
        [(1, 8, 16, 23), (1, 16, 8, 12), (1, 32, 4, 6), (1, 64, 2, 3)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'tiny': {'depths': (2, 2, 8, 2), 'dim': 96},
        'tiny-s2l5': {'depths': (2, 2, 5, 2), 'dim': 96, 'ssm_ratio': 2},
        'small': {'depths': (2, 2, 15, 2), 'dim': 96, 'ssm_ratio': 2, 'drop_path_rate': 0.3},
        'small-s1l20': {'depths': (2, 2, 20, 2), 'dim': 96, 'drop_path_rate': 0.3},
        'base': {'depths': (2, 2, 15, 2), 'dim': 128, 'ssm_ratio': 2, 'drop_path_rate': 0.6},
        'base-s1l20': {'depths': (2, 2, 20, 2), 'dim': 128, 'drop_path_rate': 0.5},
        'vanilla-tiny': {'depths': (2, 2, 9, 2), 'dim': 96, **_FIRST},
        'vanilla-small': {'depths': (2, 2, 27, 2), 'dim': 96, 'drop_path_rate': 0.3, **_FIRST},
        'vanilla-base': {'depths': (2, 2, 27, 2), 'dim': 128, 'drop_path_rate': 0.6, **_FIRST},
    }
    arch_defaults: ClassVar[dict] = {
        'd_state': 1,
        'ssm_ratio': 1,
        'mlp_ratio': 4,
        'drop_path_rate': 0.2,
        'release': 'v2',
    }

    def build_stem(self, in_channels: int) -> nn.Module:
        """Build the layers from a picture (B, in_channels, H, W) to cells at stride 4.

        Returns:
            The cells are (B, ceil(H / 4), ceil(W / 4), dim); those of the first release (B, H // 4, W // 4, dim).

        Raises:
            ValueError: If ``release`` is neither 'v0' nor 'v2'.
        """
        if self.arch['release'] not in ('v0', 'v2'):
            raise ValueError(f"release={self.arch['release']!r} must be 'v0' or 'v2'")
        if self.arch['release'] == 'v0':
            return super().build_stem(in_channels)
        dim = self.dims[0]
        return nn.Sequential(
            nn.Conv2d(in_channels, dim // 2, 3, 2, 1),
            to_cells(),
            nn.LayerNorm(dim // 2),
            Permute(0, 3, 1, 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
            to_cells(),
            nn.LayerNorm(dim),
        )

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """See the base class."""
        arch, first = self.arch, self.arch['release'] == 'v0'
        scan = SelectiveScan2D(
            dim,
            d_state=arch['d_state'],
            expand=arch['ssm_ratio'],
            conv_bias=first,
            gate=first,
            stacked=first,
            scan_backend=self.scan_backend,
        )
        return VSSBlock(dim, scan, arch['mlp_ratio'], drop_path_rate)

    def build_downsample(self, dim: int) -> nn.Module:
        """See the base class."""
        if self.arch['release'] == 'v0':
            return nn.Sequential(PatchMerging(), nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False))
        return nn.Sequential(Permute(0, 3, 1, 2), nn.Conv2d(dim, 2 * dim, 3, 2, 1), to_cells(), nn.LayerNorm(2 * dim))

    def prepare_state_dict(self, state_dict: dict, prefix: str, *_: object) -> None:
        """See the base class; kernels of 1 x 1 convolutions, as some files have linear layers, become matrices."""
        super().prepare_state_dict(state_dict, prefix)
        for name, value in state_dict.items():
            if name.startswith(prefix) and name.endswith((*_MATRICES, *_PROJECTIONS)) and value.ndim > 2:
                state_dict[name] = value.flatten(1) if value.shape[2:].numel() == 1 else value
