"""EfficientVMamba's files, of https://github.com/TerryPei/EfficientVMamba.

Their names are mmvim's own, but for a classifier's last layers.
"""

from torch import Tensor

from mmvim.checkpoints.families.names import count, shape_of
from mmvim.checkpoints.families.vss_pyramid import VSSPyramidFamily
from mmvim.models.backbones.efficient_vmamba import EfficientVMamba


class EfficientVMambaFamily(VSSPyramidFamily):
    """See :class:`VSSPyramidFamily`.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import EfficientVMambaFamily
        >>> from mmvim.models import EfficientVMamba
        >>> with torch.device('meta'):
        ...     weights = EfficientVMamba('base').state_dict()
        >>> EfficientVMambaFamily().arch_of(weights), EfficientVMambaFamily().settings(weights)['depths']
        ('base', (2, 2, 9, 2))
    """

    name = 'efficientvmamba'
    backbone = EfficientVMamba
    stem = ('patch_embed.0.weight', 'layers.0.blocks.0.op.A_logs', 'layers.0.blocks.0.se.global_reduce.weight')

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        paths, *_ = shape_of(own, r'layers\.[01]\.blocks\.\d+\.op\.x_proj_weight', 3)
        return {**super().settings(own), 'step': round(paths**0.5)}

    def depth(self, own: dict[str, Tensor], stage: int) -> int:
        """See the base class."""
        if stage < 2:
            return super().depth(own, stage)
        return max(count(own, rf'layers\.{stage}\.(\d+)\.conv_pw\.') - 1, 0)  # they begin at 1
