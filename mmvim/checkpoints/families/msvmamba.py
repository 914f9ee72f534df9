"""MSVMamba's files, of https://github.com/YuhengSSS/MSVMamba."""

from torch import Tensor

from mmvim.checkpoints.families.names import ratio, shape_of
from mmvim.checkpoints.families.vss_pyramid import VSSPyramidFamily
from mmvim.models.backbones.msvmamba import MSVMamba


class MSVMambaFamily(VSSPyramidFamily):
    """See :class:`VSSPyramidFamily`.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import MSVMambaFamily
        >>> from mmvim.models import MSVMamba
        >>> with torch.device('meta'):
        ...     weights = MSVMamba('micro').state_dict()
        >>> MSVMambaFamily().arch_of(weights), MSVMambaFamily().settings(weights)['depths']
        ('micro', (1, 2, 5, 2))
    """

    name = 'msvmamba'
    backbone = MSVMamba
    stem = ('patch_embed.0.weight', 'layers.0.blocks.0.op.conv2d_b1.weight')

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        (hidden,) = shape_of(own, r'layers\.0\.blocks\.\d+\.convFFN\.linear1\.bias', 1)
        settings = super().settings(own)
        return {**settings, 'ffn_ratio': ratio(hidden, settings['dim'])}
