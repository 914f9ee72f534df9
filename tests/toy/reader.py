"""The toy's files, whose first layer has another name than here."""

from typing import Any

from mmvim.models.backbones.toy import Toy
from torch import Tensor

from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, shape_of
from mmvim.models.backbones.common import resolve_arch


class ToyFamily(Family):
    """Classifiers and backbones.

    Examples:
        >>> from mmvim.checkpoints.families import FAMILIES
        >>> FAMILIES['toy'].arch_settings('nano')
        {'embed_dims': 32, 'depth': 2}
    """

    name = 'toy'
    backbone = Toy
    stem = ('patch_embed.proj.weight', 'blocks.0.mixer.A_logs')
    renames = ((r'^stem\.', 'patch_embed.'),)
    published_names = ((r'^patch_embed\.', 'stem.'),)
    final_norm = 'norm.weight'

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        dims = shape_of(own, r'patch_embed\.proj\.weight', 4)[0]
        return {'embed_dims': dims, 'depth': count(own, r'blocks\.(\d+)\.')}

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        return resolve_arch(arch, self.backbone.arch_zoo, {})

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, dict | None]:
        """See the base class."""
        config: dict[str, Any] = {'type': 'mmvim.Toy', 'arch': arch}
        if kind == 'classifier':
            config.update(out_indices=-1, final_norm=True)
        return config, None
