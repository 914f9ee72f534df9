"""LocalVMamba's files, of https://github.com/hunto/LocalMamba.

The directions of the scans are not in a file. Those of the published architectures are known; of another, a user says
them in ``arch``.
"""

from mmvim.checkpoints.families.vss_pyramid import VSSPyramidFamily
from mmvim.models.backbones.localvmamba import LocalVMamba


class LocalVMambaFamily(VSSPyramidFamily):
    """See :class:`VSSPyramidFamily`.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import LocalVMambaFamily
        >>> from mmvim.models import LocalVMamba
        >>> with torch.device('meta'):
        ...     weights = LocalVMamba('tiny').state_dict()
        >>> LocalVMambaFamily().arch_of(weights), LocalVMambaFamily().settings(weights)['depths']
        ('tiny', (2, 2, 9, 2))
    """

    name = 'localvmamba'
    backbone = LocalVMamba
    stem = ('patch_embed.0.weight', 'layers.0.blocks.0.op.multi_scan.attn.norm.weight')
    not_in_file = ('drop_path_rate', 'directions')
