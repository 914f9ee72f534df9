"""VMamba's files, of https://github.com/MzeroMiko/VMamba.

Linear layers are matrices in some files and kernels of 1 x 1 convolutions in others (VMamba's models on maps with their
channels last, and first); the projections of the four paths are three-dimensional or one matrix, too. The publisher's
training keeps a moving average of the weights as ``model_ema``, which ``key='model_ema'`` reads where a file has it.
"""

from collections import OrderedDict
from typing import Any, ClassVar

from torch import Tensor

from mmvim.checkpoints.families.base import Family
from mmvim.checkpoints.families.names import count, shape_of
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.view import View
from mmvim.models.backbones.common import resolve_arch
from mmvim.models.backbones.vmamba import VMamba

_BLOCK = r'layers\.\d+\.blocks\.\d+\.'


class VMambaFamily(Family):
    """Classifiers of ImageNet-1K, of both releases, and the EncoderDecoder and MaskRCNN files of mmseg and mmdet.

    A file reveals everything but ``out_indices``.

    Examples:
        >>> import torch
        >>> from mmvim.checkpoints.families import VMambaFamily
        >>> from mmvim.models import VMamba
        >>> with torch.device('meta'):
        ...     weights = VMamba('small').state_dict()
        >>> VMambaFamily().arch_of(weights), VMambaFamily().settings(weights)['depths']
        ('small', (2, 2, 15, 2))
    """

    name = 'vmamba'
    backbone = VMamba
    stem = ('patch_embed.0.weight', 'layers.0.blocks.0.op.A_logs')
    renames = (
        (r'^patch_embed\.proj\.', 'patch_embed.0.'),  # the first files of the first release
        (r'^patch_embed\.norm\.', 'patch_embed.2.'),
        (r'\.downsample\.norm\.', '.downsample.1.'),
        (r'\.downsample\.reduction\.', '.downsample.2.'),
        (r'\.ln_1\.', '.norm.'),
        (r'\.self_attention\.', '.op.'),
        (r'^classifier\.norm\.', 'norm.'),
    )
    published_names = ((r'^norm\.', 'classifier.norm.'),)
    head = ('classifier.head', 'head')
    final_norm = 'norm.weight'
    # As classification/data/build.py and config.py of the publisher's code have it, for every arch.
    views: ClassVar[dict[str | None, View]] = {None: View(224, 0.875, 'bicubic')}
    config_options: ClassVar[dict] = {'out_indices': None}

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        dim, inner, hidden = (
            shape_of(own, rf'layers\.0\.blocks\.\d+\.{name}', 1)[0]
            for name in (r'norm\.weight', r'op\.out_norm\.weight', r'mlp\.fc1\.bias')
        )
        return {
            'depths': tuple(count(own, rf'layers\.{stage}\.blocks\.(\d+)\.') for stage in range(4)),
            'dim': dim,
            'd_state': shape_of(own, _BLOCK + r'op\.A_logs', 2)[1],
            'ssm_ratio': _ratio(inner, dim),
            'mlp_ratio': _ratio(hidden, dim),
            'release': 'v2' if 'patch_embed.5.weight' in own else 'v0',
        }

    def arch_settings(self, arch: str | dict) -> dict:
        """See the base class."""
        full = resolve_arch(arch, self.backbone.arch_zoo, self.backbone.arch_defaults)
        del full['drop_path_rate']
        return {**full, 'depths': tuple(full['depths'])}

    def fit(self, own: dict[str, Tensor], module: VMamba, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """See the base class."""
        weights = super().fit(own, module, options, report)
        ours = module.state_dict()
        for name in list(weights):
            here = name if name in ours else _other_form(name)
            if here not in ours or (here != name and here in weights):
                continue  # a file with both forms has one too many, which the report names
            value, own_shape = weights.pop(name), ours[here].shape
            if value.shape != own_shape and _channels(value) == _channels(ours[here]):
                report.resized[here] = f'{tuple(value.shape)} to {tuple(own_shape)}, the same numbers'
                value = value.reshape(own_shape)
            weights[here] = value
        return weights

    def config(self, own: dict[str, Tensor], kind: str, arch: str | dict, options: dict) -> tuple[dict, None]:
        """See the base class."""
        config: dict[str, Any] = {'type': 'mmvim.VMamba', 'arch': arch, 'out_indices': (0, 1, 2, 3)}
        if kind == 'classifier':
            config.update(out_indices=3, out_norm=False, final_norm=True)
        if options['out_indices'] is not None:
            config['out_indices'] = options['out_indices']
        return config, None


def _ratio(wide: int, narrow: int) -> float:
    ratio = wide / max(narrow, 1)
    return int(ratio) if ratio == int(ratio) else ratio


def _other_form(name: str) -> str:
    """Return what the projections of the paths are called in the other of their two forms; other names as they are."""
    if name.endswith(('.x_proj_weight', '.dt_projs_weight')):
        return name.removesuffix('_weight') + '.weight'
    if name.endswith(('.x_proj.weight', '.dt_projs.weight')):
        return name.removesuffix('.weight') + '_weight'
    return name


def _channels(weight: Tensor) -> tuple[int, int] | None:
    """Return the channels that a linear layer makes, of all paths, and those that it takes; None if it is none."""
    shape = tuple(weight.shape)
    if len(shape) >= 4 and shape[-2:] == (1, 1):
        shape = shape[:-2]
    if len(shape) == 3:
        shape = (shape[0] * shape[1], shape[2])
    return (shape[0], shape[1]) if len(shape) == 2 else None
