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

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import block_drop_path_rates, freeze, normalize_out_indices, resolve_arch
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.selective_scan_2d import SelectiveScan2D
from mmvim.models.layers.vss_layers import Permute, Stage, VSSBlock, merging, patch_stem, to_cells
from mmvim.registry import MODELS

_FIRST = {'d_state': 16, 'ssm_ratio': 2, 'mlp_ratio': 0, 'release': 'v0'}
_MATRICES = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight')
_PROJECTIONS = ('x_proj.weight', 'dt_projs.weight')


def _stem(release: str, in_channels: int, dim: int) -> nn.Sequential:
    """Build the layers from a picture (B, in_channels, H, W) to a map (B, h, w, dim) at stride 4."""
    if release == 'v0':
        return patch_stem(in_channels, dim)
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


def _downsample(release: str, dim: int) -> nn.Sequential:
    """Build the layers from a map (B, h, w, dim) to one of half the sides, rounded up, and 2 * dim channels."""
    if release == 'v0':
        return merging(dim)
    return nn.Sequential(Permute(0, 3, 1, 2), nn.Conv2d(dim, 2 * dim, 3, 2, 1), to_cells(), nn.LayerNorm(2 * dim))


@MODELS.register_module()
class VMamba(Backbone):
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
        depths, release = tuple(settings['depths']), settings['release']
        if len(depths) != 4 or any(not isinstance(depth, int) or depth < 1 for depth in depths):
            raise ValueError(f'depths={depths!r} must be four positive ints, one a stage')
        if release not in ('v0', 'v2'):
            raise ValueError(f"release={release!r} must be 'v0' or 'v2'")
        if not -1 <= frozen_stages <= 4:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..4, the number of stages')
        self.out_indices = normalize_out_indices(out_indices, 4)
        if final_norm and 3 not in self.out_indices:
            raise ValueError(f'final_norm=True normalises stage 3, which out_indices={out_indices!r} leaves out')
        self.frozen_stages, self.with_cp, self.depths, self.out_norm = frozen_stages, with_cp, depths, out_norm
        self.dims = tuple(settings['dim'] * 2**i for i in range(4))
        first = release == 'v0'
        scan = {
            'd_state': settings['d_state'],
            'expand': settings['ssm_ratio'],
            'conv_bias': first,
            'gate': first,
            'stacked': first,
            'scan_backend': scan_backend,
        }
        rate = settings['drop_path_rate'] if drop_path_rate is None else drop_path_rate
        rates = iter(block_drop_path_rates(rate, sum(depths)))
        last = self.out_indices[-1]  # the last stage that an output needs

        self.patch_embed = _stem(release, in_channels, self.dims[0])
        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(self.dims, depths, strict=True)):
            blocks = [
                VSSBlock(dim, SelectiveScan2D(dim, **scan), settings['mlp_ratio'], next(rates)) for _ in range(depth)
            ]
            self.layers.append(Stage(blocks, _downsample(release, dim) if i < (3 if build_unused else last) else None))
            if i == last and not build_unused:
                break
        if len(self.layers) < 4:
            self.not_built = (f'layers.{last}.downsample.', *(f'layers.{i}.' for i in range(last + 1, 4)))
        self.not_built += tuple(f'outnorm{i}.' for i in range(4) if out_norm and i not in self.out_indices)
        self.norm = nn.LayerNorm(self.dims[3]) if final_norm else None
        for i in self.out_indices if out_norm else ():
            self.add_module(f'outnorm{i}', build_norm({'type': 'LN', 'eps': 1e-5}, self.dims[i]))
        self._register_load_state_dict_pre_hook(self._flatten)
        self._init_parameters()
        self._freeze()

    def _init_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @staticmethod
    def _flatten(state_dict: dict, prefix: str, *_: object) -> None:
        """Take the kernels of 1 x 1 convolutions, as which some files have linear layers, for the matrices they are."""
        for name, value in state_dict.items():
            if name.startswith(prefix) and name.endswith((*_MATRICES, *_PROJECTIONS)) and value.ndim > 2:
                state_dict[name] = value.flatten(1) if value.shape[2:].numel() == 1 else value

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W of at least 4.

        Returns:
            Maps (B, dim * 2 ** i, ceil(h / 2 ** i), ceil(w / 2 ** i)), i the stage, where h x w are the cells at stride
            4: ceil(H / 4) x ceil(W / 4), of the first release floor.
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

    def train(self, mode: bool = True) -> 'VMamba':
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
