"""What the relatives of VMamba share: four stages of blocks on cells, each stage half as fine as the one before."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import block_drop_path_rates, freeze, normalize_out_indices, resolve_arch
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.vss_layers import Merging, Stage, patch_stem


class VSSPyramid(Backbone):
    """A pyramid of four stages; a subclass says what a block is, and has ``arch_zoo`` and ``arch_defaults``.

    Args:
        arch: A name out of ``arch_zoo``, or a dict with ``depths``, ``dim`` and any of ``arch_defaults``.
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
        >>> from mmvim.models import MSVMamba
        >>> issubclass(MSVMamba, VSSPyramid)
        True
    """

    arch: dict
    arch_zoo: ClassVar[dict[str, dict]] = {}
    arch_defaults: ClassVar[dict] = {'drop_path_rate': 0.0}

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
        self.scan_backend = scan_backend
        rate = settings['drop_path_rate'] if drop_path_rate is None else drop_path_rate
        rates = iter(block_drop_path_rates(rate, sum(depths)))
        last = self.out_indices[-1]  # the last stage that an output needs

        self.patch_embed = self.build_stem(in_channels)
        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(self.dims, depths, strict=True)):
            blocks = [self.build_block(i, j, dim, next(rates)) for j in range(depth)]
            downsample = self.build_downsample(dim) if i < (3 if build_unused else last) else None
            self.layers.append(self.build_stage(i, blocks, downsample))
            if i == last and not build_unused:
                break
        if len(self.layers) < 4:
            self.not_built = (f'{self.downsample_name(last)}.', *(f'layers.{i}.' for i in range(last + 1, 4)))
        self.not_built += tuple(f'outnorm{i}.' for i in range(4) if out_norm and i not in self.out_indices)
        self.norm = nn.LayerNorm(self.dims[3]) if final_norm else None
        for i in self.out_indices if out_norm else ():
            self.add_module(f'outnorm{i}', build_norm({'type': 'LN', 'eps': 1e-5}, self.dims[i]))
        self._init_parameters()
        self._freeze()

    def build_stem(self, in_channels: int) -> nn.Module:
        """Build the layers from a picture to cells (B, h, w, dim) at stride 4."""
        return patch_stem(in_channels, self.dims[0])

    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """Build a block, which maps cells (B, h, w, dim) to the same shape.

        Args:
            stage: Number of the stage.
            index: Number of the block in it.
            dim: Channels.
            drop_path_rate: Stochastic depth rate.
        """
        raise NotImplementedError

    def build_stage(self, stage: int, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> nn.Module:
        """Put a stage together: it is called as :class:`Stage` is, and has ``blocks`` and ``downsample``.

        Args:
            stage: Number of the stage.
            blocks: Its blocks.
            downsample: Layer to the next stage; None for the last.
        """
        return Stage(blocks, downsample)

    def downsample_name(self, stage: int) -> str:
        """Return what a stage's downsampling is called in the backbone."""
        return f'layers.{stage}.downsample'

    def build_downsample(self, dim: int) -> nn.Module:
        """Build the layers from cells of ``dim`` channels to those of the next stage."""
        return Merging(dim)

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
            freeze(self.get_submodule(self.downsample_name(last)))

    def train(self, mode: bool = True) -> 'VSSPyramid':
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
