"""LocalVim's files, of https://github.com/hunto/LocalMamba: laid out as Vim's, with a mixer for each direction.

The directions of the scans are not in a file. Those of the published architectures are known; of another, a user says
them in ``arch``.
"""

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families.vim import VimFamily, published_grid
from mmvim.checkpoints.report import Report
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.localvim import LocalVim, quarters
from mmvim.models.layers.ssm_params import resolve_dt_rank

_RMS_NORM = {'type': 'mmvim.RMSNorm', 'eps': 1e-5}


class LocalVimFamily(VimFamily):
    """Classifiers of ImageNet-1K, and EncoderDecoder and MaskRCNN files of mmseg and mmdet.

    A file with a class token is refused: it was trained with the token in its scans, which LocalVim does not have here.
    ``grid`` and ``img_size`` are those of :class:`VimFamily`.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import LocalVimFamily
        >>> from mmvim.models import LocalVim
        >>> with torch.device('meta'):
        ...     weights = LocalVim('tiny').state_dict()
        >>> LocalVimFamily().arch_of(weights), LocalVimFamily().settings(weights)['depth']
        ('tiny', 20)
    """

    name = 'localvim'
    backbone = LocalVim
    stem = ('patch_embed.proj.weight', 'layers.0.mixer.A_log_0')
    neck: ClassVar[dict[str, str]] = {}
    output_norm: ClassVar[str] = r'outnorm_(\w+)\.'
    config_options: ClassVar[dict] = {'img_size': None, 'out_indices': None}
    choices: ClassVar[dict[str, tuple]] = {
        name: VimFamily.choices[name] for name in ('cls_token', 'compat', 'patch_change')
    }

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        plain = {name.replace('_0.', '.').removesuffix('_0'): value for name, value in own.items()}
        return super().settings(plain)

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        del full['directions']
        return {**full, 'dt_rank': resolve_dt_rank(full['dt_rank'], full['embed_dims'])}

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        _refuse_class_token(own, self.name)
        patch, depth = own['patch_embed.proj.weight'].shape[-1], self.settings(own)['depth']
        config: dict[str, Any] = {'type': 'mmvim.LocalVim', 'arch': arch, 'patch_size': patch}
        size, grid = options['img_size'], published_grid(own, options)
        if size is None and grid is not None:
            rows, columns = (side * patch for side in grid)
            size = rows if rows == columns else (rows, columns)
        if size is not None:
            config['img_size'] = size
        if 'layers.0.norm.bias' not in own:
            config['norm_cfg'] = dict(_RMS_NORM)
        if kind == 'classifier':
            config.update(feature='residual', out_norm=False, final_norm=True, out_indices=-1)
        else:
            config['out_indices'] = quarters(depth)
        if options['out_indices'] is not None:
            config['out_indices'] = options['out_indices']
        return config, None

    def fit(self, own: dict[str, Tensor], module: LocalVim, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """See the base class."""
        _refuse_class_token(own, report.source)
        weights = super().fit(own, module, options, report)
        for name in module.state_dict():  # a published classifier has RMSNorm where its dense models have LayerNorm
            if name.startswith('layers.') and name.endswith('.norm.bias') and name not in weights:
                weights[name] = torch.zeros(module.embed_dims)
                report.assumed[name] = f'{module.embed_dims} zeros: the file has RMSNorm, which has no bias'
        return weights


def _refuse_class_token(own: dict[str, Tensor], source: str) -> None:
    if 'cls_token' in own:
        raise CheckpointError(
            f'{source} has a class token, which took part in its scans, and LocalVim has none',
            'take the file without one (local_vim_tiny.ckpt)',
            misfit=True,
        )
