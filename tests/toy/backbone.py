"""A toy: patches, and blocks of norm and selective scan.

It is nobody's; a test adds it to a copy of the repository and takes it for what a new family looks like.
"""

from collections.abc import Sequence
from typing import ClassVar

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmvim.models.backbones.base import Backbone
from mmvim.models.backbones.common import block_drop_path_rates, freeze, normalize_out_indices, resolve_arch
from mmvim.models.layers.norm import build_norm
from mmvim.models.layers.patch_embed import PatchEmbed
from mmvim.models.layers.recompute import recompute
from mmvim.registry import MODELS

_NORM = {'type': 'mmvim.LN2d'}


class ToyBlock(nn.Module):
    """Add the scan of the normalised map to the map.

    Examples:
        >>> import torch
        >>> ToyBlock(8, {'type': 'mmvim.SelectiveScan2D', 'd_state': 2}, 0.0)(torch.randn(1, 8, 3, 5)).shape
        torch.Size([1, 8, 3, 5])
    """

    def __init__(self, embed_dims: int, mixer_cfg: dict, drop_path_rate: float) -> None:
        super().__init__()
        self.norm = build_norm(_NORM, embed_dims)
        self.mixer = MODELS.build({**mixer_cfg, 'embed_dims': embed_dims})
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.drop_path(self.mixer(self.norm(x)))


@MODELS.register_module()
class Toy(Backbone):
    """A plain backbone whose mixer is a config's.

    Args:
        arch: 'nano' (32 channels, 2 blocks), or a dict with ``embed_dims`` and ``depth``. Defaults to 'nano'.
        mixer_cfg: The mixer of a block. Defaults to None, ``dict(type='mmvim.SelectiveScan2D', d_state=4)``.
        out_indices: Blocks after which an output is taken. Defaults to (0, 1).
        final_norm: Normalise the last output. Defaults to False.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 the patches, n also the first n blocks. Defaults to -1.
        with_cp: Recompute each block in the backward pass. Defaults to False.
        scan_backend: Backend of the scan. Defaults to None, the fastest there is.
        init_cfg: MMEngine initialisation. Defaults to None.
        build_unused: Build blocks that no output needs, too, frozen. Defaults to False.

    Examples:
        >>> import torch
        >>> [tuple(y.shape) for y in Toy({'embed_dims': 8, 'depth': 2})(torch.randn(1, 3, 64, 90))]
        [(1, 8, 4, 6), (1, 8, 4, 6)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {'nano': {'embed_dims': 32, 'depth': 2}}

    def __init__(
        self,
        arch: str | dict = 'nano',
        mixer_cfg: dict | None = None,
        out_indices: int | Sequence[int] = (0, 1),
        final_norm: bool = False,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        scan_backend: str | None = None,
        init_cfg: dict | list | None = None,
        build_unused: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = resolve_arch(arch, self.arch_zoo, {})
        self.embed_dims, depth = self.arch['embed_dims'], self.arch['depth']
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..{depth}, the number of blocks')
        self.out_indices = normalize_out_indices(out_indices, depth)
        self.frozen_stages, self.with_cp = frozen_stages, with_cp
        mixer_cfg = {**(mixer_cfg or {'type': 'mmvim.SelectiveScan2D', 'd_state': 4}), 'scan_backend': scan_backend}
        self.patch_embed = PatchEmbed(3, self.embed_dims, 16, 16)
        self.depth, self.needed = depth, self.out_indices[-1] + 1  # blocks
        rates = block_drop_path_rates(drop_path_rate, depth)[: depth if build_unused else self.needed]
        self.blocks = nn.ModuleList(ToyBlock(self.embed_dims, mixer_cfg, rate) for rate in rates)
        self.norm = build_norm(_NORM, self.embed_dims) if final_norm else None
        self.not_built = tuple(f'blocks.{index}.' for index in range(len(rates), depth))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute a map (B, C, h, w) for each of ``out_indices`` from images (B, 3, H, W)."""
        tokens, grid = self.patch_embed(x)
        x = tokens.transpose(1, 2).unflatten(2, grid)  # (B, L, C) -> (B, C, h, w)
        outputs = []
        for index, block in enumerate(self.blocks[: self.needed]):
            x = recompute(block, block, x) if self.with_cp and x.requires_grad else block(x)
            if index in self.out_indices:
                last = index == self.depth - 1
                outputs.append((self.norm(x) if last and self.norm is not None else x).contiguous())
        return tuple(outputs)

    def _freeze(self) -> None:
        if self.frozen_stages >= 0:
            freeze(self.patch_embed, *self.blocks[: self.frozen_stages])
        freeze(*self.blocks[self.needed :])

    def train(self, mode: bool = True) -> 'Toy':
        """Set the training mode; frozen parts stay in eval mode."""
        super().train(mode)
        self._freeze()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth for layer-wise learning rates, and the number of depths (blocks + 2)."""
        depths, name = self.depth + 2, param_name.removeprefix(prefix)
        if param_name.startswith(prefix) and name.startswith('patch_embed.'):
            return 0, depths
        if param_name.startswith(prefix) and name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths
