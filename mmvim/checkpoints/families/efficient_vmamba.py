"""EfficientVMamba's files, of https://github.com/TerryPei/EfficientVMamba.

Their names are mmvim's own, but for a classifier's last layers.
"""

from typing import Any, ClassVar

from torch import Tensor

from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, shape_of
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.efficient_vmamba import EfficientVMamba

_OP = r'layers\.[01]\.blocks\.\d+\.op\.'


class EfficientVMambaFamily(Family):
    """Classifiers of ImageNet-1K, and the EncoderDecoder and MaskRCNN files of mmseg and mmdet.

    A file reveals everything but ``out_indices``.

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
    renames = ((r'^classifier\.norm\.', 'norm.'),)
    published_names = ((r'^norm\.', 'classifier.norm.'),)
    head = ('classifier.head', 'head')
    final_norm = 'norm.weight'
    # Not verified at the source: the common 224 of 256.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    config_options: ClassVar[dict] = {'out_indices': None}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        (dim,) = shape_of(own, r'layers\.0\.blocks\.\d+\.norm\.weight', 1)
        (inner,) = shape_of(own, r'layers\.0\.blocks\.\d+\.op\.out_norm\.weight', 1)
        paths, *_ = shape_of(own, _OP + 'x_proj_weight', 3)
        ratio = inner / max(dim, 1)
        return {
            'depths': (
                *(count(own, rf'layers\.{stage}\.blocks\.(\d+)\.') for stage in (0, 1)),
                *(max(count(own, rf'layers\.{stage}\.(\d+)\.conv_pw\.') - 1, 0) for stage in (2, 3)),  # they begin at 1
            ),
            'dim': dim,
            'd_state': shape_of(own, _OP + 'A_logs', 2)[1],
            'ssm_ratio': int(ratio) if ratio == int(ratio) else ratio,
            'step': round(paths**0.5),
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        del full['drop_path_rate']
        return {**full, 'depths': tuple(full['depths'])}

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        config: dict[str, Any] = {'type': 'mmvim.EfficientVMamba', 'arch': arch, 'out_indices': (0, 1, 2, 3)}
        if kind == 'classifier':
            config.update(out_indices=3, out_norm=False, final_norm=True)
        if options['out_indices'] is not None:
            config['out_indices'] = options['out_indices']
        return config, None
