"""What the pyramids share: four stages, each half as fine as the one before and twice as wide."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import block_drop_path_rates, freeze, normalize_out_indices, resolve_arch


class Pyramid(Backbone):
    """Stem, four stages of blocks with a downsampling between them, and norms of their outputs.

    A subclass has ``arch_zoo`` and ``arch_defaults``, calls :meth:`build` at the end of its ``__init__``, and defines
    the methods that build the parts. The arguments are those of :class:`mmvim.models.VMamba`.

    Attributes:
        arch_zoo: The named architectures, see :func:`resolve_arch`; each has ``depths`` and ``dim``.
        arch_defaults: Their optional settings; ``drop_path_rate`` is one.
        stages_name: What the list of stages is called in the published checkpoints. Defaults to 'layers'.

    Raises:
        ValueError: If an argument is out of range; the message names it and the choices.

    Examples:
        >>> from mmvim.models import MambaVision, VMamba
        >>> issubclass(MambaVision, Pyramid), issubclass(VMamba, Pyramid)
        (True, True)
    """

    arch: dict
    arch_zoo: ClassVar[dict[str, dict]] = {}
    arch_defaults: ClassVar[dict] = {'drop_path_rate': 0.0}
    stages_name: ClassVar[str] = 'layers'

    def __init__(
        self,
        arch: str | dict,
        out_indices: int | Sequence[int],
        out_norm: bool,
        final_norm: bool,
        frozen_stages: int,
        with_cp: bool,
        init_cfg: dict | list | None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = resolve_arch(arch, self.arch_zoo, self.arch_defaults)
        self.depths = four('depths', self.arch['depths'])
        if not -1 <= frozen_stages <= 4:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..4, the number of stages')
        self.out_indices = normalize_out_indices(out_indices, 4)
        if final_norm and 3 not in self.out_indices:
            raise ValueError(f'final_norm=True normalises stage 3, which out_indices={out_indices!r} leaves out')
        self.frozen_stages, self.with_cp = frozen_stages, with_cp
        self.out_norm, self.final_norm = out_norm, final_norm
        self.dims = tuple(self.arch['dim'] * 2**i for i in range(4))

    # What a subclass defines

    @abstractmethod
    def build_stem(self, in_channels: int) -> nn.Module:
        """Build the layers from a picture (B, in_channels, H, W) to what the first stage takes, at stride 4."""

    @abstractmethod
    def build_block(self, stage: int, index: int, dim: int, drop_path_rate: float) -> nn.Module:
        """Build a block.

        Args:
            stage: Number of the stage.
            index: Number of the block in it.
            dim: Channels.
            drop_path_rate: Stochastic depth rate.
        """

    @abstractmethod
    def build_stage(self, stage: int, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> nn.Module:
        """Put a stage together: a module that is called with ``(x, with_cp)`` and has ``blocks`` and ``downsample``.

        Args:
            stage: Number of the stage.
            blocks: Its blocks.
            downsample: Layer to the next stage; None for the last.
        """

    @abstractmethod
    def build_downsample(self, dim: int) -> nn.Module:
        """Build the layers from a stage of ``dim`` channels to the next one."""

    @abstractmethod
    def build_final_norm(self, dim: int) -> nn.Module:
        """Build the norm of the last stage that the published classifiers have."""

    @abstractmethod
    def build_output_norm(self, dim: int) -> nn.Module:
        """Build the norm of an output."""

    @abstractmethod
    def to_map(self, x: Tensor) -> Tensor:
        """Return what a stage, or the norm of its output, makes as the map (B, C, H, W) that is returned."""

    def downsample_name(self, stage: int) -> str:
        """Return what a stage's downsampling is called in the backbone."""
        return f'{self.stages_name}.{stage}.downsample'

    # What they share

    @property
    def stages(self) -> nn.ModuleList:
        """The stages that are built."""
        return getattr(self, self.stages_name)

    def build(self, in_channels: int, drop_path_rate: float | None, build_unused: bool) -> None:
        """Build the stem, the stages that the outputs need, and the norms.

        Args:
            in_channels: Channels of the picture.
            drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0; None for the
                architecture's.
            build_unused: Build all stages.
        """
        rate = self.arch['drop_path_rate'] if drop_path_rate is None else drop_path_rate
        rates = iter(block_drop_path_rates(rate, sum(self.depths)))
        last = self.out_indices[-1]  # the last stage that an output needs
        self.patch_embed = self.build_stem(in_channels)
        stages = nn.ModuleList()
        for i in range(4 if build_unused else last + 1):
            blocks = [self.build_block(i, j, self.dims[i], next(rates)) for j in range(self.depths[i])]
            downsample = self.build_downsample(self.dims[i]) if i < (3 if build_unused else last) else None
            stages.append(self.build_stage(i, blocks, downsample))
        self.add_module(self.stages_name, stages)
        if len(stages) < 4:
            unbuilt = (f'{self.stages_name}.{i}.' for i in range(last + 1, 4))
            self.not_built = (f'{self.downsample_name(last)}.', *unbuilt)
        self.not_built += tuple(f'outnorm{i}.' for i in range(4) if self.out_norm and i not in self.out_indices)
        self.norm = self.build_final_norm(self.dims[3]) if self.final_norm else None
        for i in self.out_indices if self.out_norm else ():
            self.add_module(f'outnorm{i}', self.build_output_norm(self.dims[i]))
        self._init_parameters()
        self._freeze()

    def _init_parameters(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith('dt_proj'):  # whose steps have a start of their own
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W), any H and W of at least 4.

        Returns:
            Maps (B, dim * 2 ** i, ceil(h / 2 ** i), ceil(w / 2 ** i)), i the stage, where h x w are the cells that the
            stem makes at stride 4.
        """
        x = self.patch_embed(x)
        outputs = []
        for i, stage in enumerate(self.stages):
            x = stage(x, self.with_cp and self.training)
            if i in self.out_indices:
                y = self.norm(x) if i == 3 and self.norm is not None else x
                y = getattr(self, f'outnorm{i}')(y) if self.out_norm else y
                outputs.append(self.to_map(y))
            if i == self.out_indices[-1]:
                break
            x = stage.downsample(x)
        return tuple(outputs)

    def _freeze(self) -> None:
        if self.frozen_stages >= 0:
            freeze(self.patch_embed, *self.stages[: self.frozen_stages])
        last = self.out_indices[-1]
        freeze(*self.stages[last + 1 :])
        if last + 1 < len(self.stages):
            freeze(self.get_submodule(self.downsample_name(last)))

    def train(self, mode: bool = True) -> 'Pyramid':
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
        if name.startswith(f'{self.stages_name}.'):
            _, stage, part, index, *_ = name.split('.')
            block = int(index) if part == 'blocks' else self.depths[int(stage)] - 1
            return sum(self.depths[: int(stage)]) + block + 1, depths
        return depths - 1, depths


def four(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Return a setting that has a positive int for each stage.

    Args:
        name: The setting.
        values: Its values.

    Raises:
        ValueError: If it has not.

    Examples:
        >>> four('depths', [2, 2, 9, 2])
        (2, 2, 9, 2)
    """
    if len(values) != 4 or any(not isinstance(value, int) or value < 1 for value in values):
        raise ValueError(f'{name}={values!r} must be four positive ints, one a stage')
    return tuple(values)
