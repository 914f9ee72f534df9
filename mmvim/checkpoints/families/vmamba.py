"""VMamba's files, of https://github.com/MzeroMiko/VMamba.

Linear layers are matrices in some files and kernels of 1 x 1 convolutions in others (VMamba's models on maps with their
channels last, and first); the projections of the four paths are three-dimensional or one matrix, too. The publisher's
training keeps a moving average of the weights as ``model_ema``, which ``key='model_ema'`` reads where a file has it.
"""

from collections import OrderedDict

from torch import Tensor

from mmvim.checkpoints.families.names import ratio, shape_of
from mmvim.checkpoints.families.vss_pyramid import VSSPyramidFamily
from mmvim.checkpoints.report import Report
from mmvim.models.backbones.vmamba import VMamba


class VMambaFamily(VSSPyramidFamily):
    """See :class:`VSSPyramidFamily`; the files of both releases.

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
        *VSSPyramidFamily.renames,
        (r'^patch_embed\.proj\.', 'patch_embed.0.'),  # the first files of the first release
        (r'^patch_embed\.norm\.', 'patch_embed.2.'),
        (r'\.downsample\.norm\.', '.downsample.1.'),
        (r'\.downsample\.reduction\.', '.downsample.2.'),
        (r'\.ln_1\.', '.norm.'),
        (r'\.self_attention\.', '.op.'),
    )

    def settings(self, own: dict[str, Tensor]) -> dict:
        """See the base class."""
        (hidden,) = shape_of(own, r'layers\.0\.blocks\.\d+\.mlp\.fc1\.bias', 1)
        settings = super().settings(own)
        release = 'v2' if 'patch_embed.5.weight' in own else 'v0'
        return {**settings, 'mlp_ratio': ratio(hidden, settings['dim']), 'release': release}

    def fit(self, own: dict[str, Tensor], module: VMamba, options: dict, report: Report) -> OrderedDict[str, Tensor]:
        """See the base class."""
        weights = super().fit(own, module, options, report)
        ours = module.state_dict()
        for name in list(weights):
            here = name if name in ours else _other_form(name)
            if here not in ours or (here != name and here in weights):
                continue  # a file with both forms has one too many, which the report names
            value, own_shape = weights.pop(name), ours[here].shape
            channels = _channels(value)
            if value.shape != own_shape and channels is not None and channels == _channels(ours[here]):
                report.resized[here] = f'{tuple(value.shape)} to {tuple(own_shape)}, the same numbers'
                value = value.reshape(own_shape)
            weights[here] = value
        return weights


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
