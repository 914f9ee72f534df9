"""LocalVMamba's files, of https://github.com/hunto/LocalMamba.

The directions of the scans are not in a file. Those of the published architectures are known; of another, a user says
them in ``arch``.
"""

from typing import Any, ClassVar

from torch import Tensor

from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, shape_of
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.localvmamba import LocalVMamba

_BLOCK = r'layers\.\d+\.blocks\.\d+\.'


class LocalVMambaFamily(Family):
    """Classifiers of ImageNet-1K, and the EncoderDecoder and MaskRCNN files of mmseg and mmdet.

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
    renames = ((r'^classifier\.norm\.', 'norm.'),)
    published_names = ((r'^norm\.', 'classifier.norm.'),)
    head = ('classifier.head', 'head')
    final_norm = 'norm.weight'
    # Not verified at the source: the common 224 of 256.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    config_options: ClassVar[dict] = {'out_indices': None}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        dim, inner = (
            shape_of(own, rf'layers\.0\.blocks\.\d+\.{name}', 1)[0]
            for name in (r'norm\.weight', r'op\.out_norm\.weight')
        )
        return {
            'depths': tuple(count(own, rf'layers\.{stage}\.blocks\.(\d+)\.') for stage in range(4)),
            'dim': dim,
            'd_state': shape_of(own, _BLOCK + r'op\.A_logs', 2)[1],
            'ssm_ratio': _ratio(inner, dim),
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        del full['drop_path_rate'], full['directions']
        return {**full, 'depths': tuple(full['depths'])}

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        config: dict[str, Any] = {'type': 'mmvim.LocalVMamba', 'arch': arch, 'out_indices': (0, 1, 2, 3)}
        if kind == 'classifier':
            config.update(out_indices=3, out_norm=False, final_norm=True)
        if options['out_indices'] is not None:
            config['out_indices'] = options['out_indices']
        return config, None


def _ratio(wide: int, narrow: int) -> float:
    ratio = wide / max(narrow, 1)
    return int(ratio) if ratio == int(ratio) else ratio
