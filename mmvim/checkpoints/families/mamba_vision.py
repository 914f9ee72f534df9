"""MambaVision's files, of https://github.com/NVlabs/MambaVision.

Their names are mmvim's own, so that little is left to do.
"""

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, shape_of
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.mamba_vision import MambaVision

# Windows of the third and fourth level that the dense models were trained with, the segmentors' by arch.
_DENSE_WINDOWS = {'small': (8, 8, 160, 56)}
_DENSE_WINDOW = (8, 8, 64, 32)
_DETECTOR_WINDOW = (8, 8, 112, 56)
# Crops of the author's model configurations; he repeats T's at https://github.com/NVlabs/MambaVision/issues/57.
_VIEW = View(224, 1.0, 'bicubic')
# At 512 pixels L2 and L3 see the whole picture squashed to a square, whose border is then cut off.
_SQUASHED = View(512, 0.93, 'bicubic', 'squash')


class MambaVisionFamily(Family):
    """Classifiers T to L3 of ImageNet-1K and 21K, and the EncoderDecoder and CascadeRCNN files of mmseg and mmdet.

    A file does not reveal ``window_sizes`` (a classifier's follow from ``img_size``, which is 224, for L3 256) and
    ``out_indices``.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import MambaVisionFamily
        >>> from mmvim.models import MambaVision
        >>> with torch.device('meta'):
        ...     weights = MambaVision('small').state_dict()
        >>> MambaVisionFamily().arch_of(weights), MambaVisionFamily().settings(weights)['depths']
        ('small', (3, 3, 7, 5))
    """

    name = 'mambavision'
    backbone = MambaVision
    stem = ('patch_embed.conv_down.0.weight', 'levels.0.blocks.0.conv1.weight')
    final_norm = 'norm.weight'
    views: ClassVar[dict[str | None, View]] = {
        None: replace(_VIEW, crop_pct=0.875),
        'tiny': _VIEW,
        'tiny2': replace(_VIEW, crop_pct=0.98),
        'small': replace(_VIEW, crop_pct=0.93),
        'base': _VIEW,
        'large': _VIEW,
        'large2': _VIEW,
        'large3': replace(_VIEW, img_size=256),
    }
    config_options: ClassVar[dict] = {'window_sizes': None, 'img_size': None, 'out_indices': None}
    numbers: ClassVar[dict[str, tuple[int, ...]]] = {'window_sizes': (4,), 'img_size': (0,)}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class. The number of heads leaves no trace in the shapes."""
        stem = shape_of(own, r'patch_embed\.conv_down\.3\.weight', 4)
        fc1 = shape_of(own, r'levels\.[23]\.blocks\.\d+\.mlp\.fc1\.weight', 2)
        return {
            'depths': tuple(count(own, rf'levels\.{level}\.blocks\.(\d+)\.') for level in range(4)),
            'dim': stem[0],
            'in_dim': stem[1],
            'mlp_ratio': fc1[0] / max(fc1[1], 1),
            'd_state': shape_of(own, r'levels\.[23]\.blocks\.\d+\.mixer\.A_log', 2)[1],
            'd_conv': shape_of(own, r'levels\.[23]\.blocks\.\d+\.mixer\.conv1d_x\.weight', 3)[2],
            'layer_scale': any(name.endswith('.gamma_1') for name in own),
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        return {
            'depths': tuple(full['depths']),
            'dim': full['dim'],
            'in_dim': full['in_dim'],
            'mlp_ratio': full['mlp_ratio'],
            'd_state': full['d_state'],
            'd_conv': full['d_conv'],
            'layer_scale': full['layer_scale'] is not None,
        }

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        config: dict[str, Any] = {'type': 'mmvim.MambaVision', 'arch': arch}
        windows = options['window_sizes']
        if kind == 'classifier':
            if options['img_size'] is not None and windows is None:
                size = options['img_size']
                if size % 32:
                    raise CheckpointError(f'img_size={size!r} is not a multiple of 32', 'give the side of its pictures')
                # A window covers the map: stride 16 at the third level, 32 at the fourth.
                windows = (8, 8, size // 16, size // 32)
            config.update(out_indices=3, out_norm=False, final_norm=True)
        else:
            if options['img_size'] is not None:
                raise CheckpointError('img_size sets the windows of a classifier only', 'give window_sizes')
            published = (
                _DETECTOR_WINDOW
                if kind == 'detector'
                else _DENSE_WINDOWS.get(arch if isinstance(arch, str) else '', _DENSE_WINDOW)
            )
            windows = windows or published
            config['out_indices'] = (0, 1, 2, 3)
        if options['out_indices'] is not None:
            config['out_indices'] = options['out_indices']
        if windows is not None:
            config['window_sizes'] = tuple(windows)
        return config, None

    def view(self, arch: str | dict | None, img_size: int | None = None) -> View:
        """See the base class."""
        if arch in ('large2', 'large3') and img_size == _SQUASHED.img_size:
            return _SQUASHED
        return super().view(arch, img_size)

    def input_size(self, arch: str | dict | None, config: dict) -> int:
        """See the base class. A classifier's windows tell: one covers the map of the third level, at stride 16."""
        return 16 * config['window_sizes'][2] if 'window_sizes' in config else self.view(arch).img_size
