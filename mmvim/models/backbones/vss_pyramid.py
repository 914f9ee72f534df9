"""What the relatives of VMamba share: four stages of blocks on cells, each stage half as fine as the one before."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmvim.models.backbones.pyramid import Pyramid
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.vss_layers import Merging, Stage, patch_stem


class VSSPyramid(Pyramid):
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
        super().__init__(arch, out_indices, out_norm, final_norm, frozen_stages, with_cp, init_cfg)
        self.scan_backend = scan_backend
        self.build(in_channels, drop_path_rate, build_unused)

    def build_stem(self, in_channels: int) -> nn.Module:
        """Build the layers from a picture (B, in_channels, H, W) to cells (B, H // 4, W // 4, dim)."""
        return patch_stem(in_channels, self.dims[0])

    def build_stage(self, stage: int, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> nn.Module:
        """See the base class; the blocks map cells (B, h, w, dim) to the same shape."""
        return Stage(blocks, downsample)

    def build_downsample(self, dim: int) -> nn.Module:
        """Build the layers from cells of ``dim`` channels to those of the next stage."""
        return Merging(dim)

    def build_final_norm(self, dim: int) -> nn.Module:
        """See the base class."""
        return nn.LayerNorm(dim)

    def build_output_norm(self, dim: int) -> nn.Module:
        """See the base class."""
        return build_norm({'type': 'LN', 'eps': 1e-5}, dim)

    def to_map(self, x: Tensor) -> Tensor:
        """Turn cells (B, H, W, C) into a contiguous map (B, C, H, W)."""
        return x.permute(0, 3, 1, 2).contiguous()
