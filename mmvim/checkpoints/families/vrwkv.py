"""Vision-RWKV's files, of https://github.com/OpenGVLab/Vision-RWKV.

MMClassification wrote T, S and B, a descendant of Swin's scripts L: the backbone's names are mmvim's own, behind
``backbone.``, and a head stands beside it; L's has a hidden layer. What they do not say is the grid of the positions,
which is square, and whether norms stand before or behind the mixes: that is the architecture's.
"""

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.names import count, ratio, shape_of
from mmvim.checkpoints.families.plain_mamba import PlainMambaFamily, stored_grid
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.localvim import quarters
from mmvim.models.backbones.vrwkv import VRWKV

# Side of the pictures that the positions were made for, where those of the view are larger.
_PRETRAINED_SIDE = {'large': 192}


class VRWKVFamily(PlainMambaFamily):
    """Classifiers of ImageNet-1K and 22K, T to L.

    A VRWKV6 is refused by name: it has another token mixer. ``grid``, ``img_size`` and ``out_indices`` are those of
    :class:`PlainMambaFamily`; a dense backbone and a segmentor take their outputs after four equal parts of the blocks.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import VRWKVFamily
        >>> from mmvim.models import VRWKV
        >>> with torch.device('meta'):
        ...     weights = VRWKV('small').state_dict()
        >>> VRWKVFamily().arch_of(weights), VRWKVFamily().settings(weights)['embed_dims']
        ('small', 384)
    """

    name = 'vrwkv'
    backbone = VRWKV
    stem = ('patch_embed.projection.weight', 'layers.0.ffn.spatial_mix_k')
    picture_kernels = stem[:1]  # PlainMamba's is another
    part_names: ClassVar[tuple[tuple[str, str], ...]] = ((r'^head\.0\.', 'head.hidden.'), (r'^head\.2\.', 'head.fc.'))
    adapter_names: ClassVar[tuple[tuple[str, str], ...]] = ()  # its publisher's are mmvim's
    published_adapter_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    aux_index = 2
    # L's pictures: the whole of the shorter side, at twice the size that its positions were made for.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic'), 'large': View(384, 1.0, 'bicubic')}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        if any('.att.time_maa_' in name for name in own):
            raise CheckpointError(
                'the file is of VRWKV6, whose token mixer mmvim does not have',
                'give a file of VRWKV-T, S, B or L (vrwkv_*, not vrwkv6_*)',
                misfit=True,
            )
        dims = shape_of(own, r'patch_embed\.projection\.bias', 1)[0]
        return {
            'embed_dims': dims,
            'depth': count(own, r'layers\.(\d+)\.'),
            'hidden_rate': ratio(shape_of(own, r'layers\.\d+\.ffn\.key\.weight', 2)[0], dims),
            'key_norm': any(name.endswith('.key_norm.weight') for name in own),
            'layer_scale': any(name.endswith('.gamma1') for name in own),
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        del full['post_norm']
        return {**full, 'layer_scale': full['layer_scale'] is not None}

    def check_arch(self, own: dict[str, Tensor], module: VRWKV, source: str) -> None:
        """See the base class. A file without scales fits a backbone with them, see :meth:`fit`."""
        if (module.arch or {}).get('layer_scale') is not None and 'layers.0.gamma1' not in own:
            own = {**own, 'layers.0.gamma1': torch.ones(module.embed_dims)}
        super().check_arch(own, module, source)

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        patch = shape_of(own, r'patch_embed\.projection\.weight', 4)[3]
        config: dict[str, Any] = {'type': 'mmvim.VRWKV', 'arch': arch}
        config.update({} if patch == 16 else {'patch_size': patch})
        size, grid = options['img_size'], stored_grid(own, options)
        if size is None and grid is not None:
            size = patch * grid[0] if grid[0] == grid[1] else (patch * grid[0], patch * grid[1])
        config.update({} if size is None else {'img_size': size})
        config['out_indices'] = options['out_indices']
        if options['out_indices'] is None:
            parts = kind in ('dense', 'segmentor')
            config['out_indices'] = quarters(self.settings(own)['depth']) if parts else -1
        if kind != 'classifier' and self.final_norm not in own:
            config['final_norm'] = False
        return config, None

    def fit(self, own: dict[str, Tensor], module: VRWKV, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """See the base class. Where the file has no layer scale it is 1, as in the authors' dense VRWKV-T."""
        weights = super().fit(own, module, options, report)
        if not any(name.endswith('.gamma1') for name in own):
            for name in module.state_dict():
                if name.endswith(('.gamma1', '.gamma2')):
                    weights[name] = torch.ones(module.embed_dims)
                    report.assumed[name] = f'{module.embed_dims} ones: the file has no layer scale'
        return weights

    def input_size(self, arch: str | dict | None, config: dict) -> Any:
        """See the base class."""
        size = super().input_size(arch, config)
        return self.view(arch).img_size if isinstance(arch, str) and size == _PRETRAINED_SIDE.get(arch) else size
