"""Inference in fewer bits: bfloat16 by autocast, and linear layers whose products are of 8-bit integers."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmvim.deploy.errors import DeployError
from mmvim.deploy.fold import with_plain_linears
from mmvim.models.layers.plain_layers import is_plain

Model = TypeVar('Model', bound=nn.Module)
# Projections on which the step of a scan depends exponentially; they are a small part of the work.
STEPS = ('x_proj', 'dt_proj')


def compute_in_bf16(model: Model) -> Model:
    """Let a model compute in bfloat16 by autocast from now on, and hand its results on in float32.

    Weights stay float32, and so do the states of scans. A segmentor is meant from the picture to the scores of its
    pixels, other models of OpenMMLab (detectors, classifiers) to their features, and any other module as a whole.

    Args:
        model: The model, changed in place.

    Returns:
        The model.

    Examples:
        >>> from mmvim.models import Vim
        >>> model = compute_in_bf16(Vim({'embed_dims': 16, 'depth': 1}, img_size=32).eval())
        >>> model(torch.randn(1, 3, 32, 32))[0].dtype
        torch.float32
    """
    found = [(module, name) for module in model.modules() if (name := _entrance(module)) is not None]
    for module, name in found or [(model, 'forward')]:
        setattr(module, name, functools.partial(_in_bf16, getattr(module, name)))
    return model


def _entrance(module: nn.Module) -> str | None:
    """Return the method of an OpenMMLab model that is run in bfloat16; None for any other module."""
    if not (hasattr(module, 'backbone') and callable(getattr(module, 'extract_feat', None))):
        return None
    if hasattr(module, 'encode_decode'):
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        if isinstance(getattr(module, 'decode_head', None), BaseDecodeHead):
            return 'encode_decode'
    return 'extract_feat'


def _in_bf16(function: Callable, *arguments: Any, **keywords: Any) -> Any:
    device = next((x.device.type for x in (*arguments, *keywords.values()) if isinstance(x, Tensor)), 'cpu')
    with torch.autocast(device, torch.bfloat16):
        return _widened(function(*arguments, **keywords))


def _widened(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.float() if result.dtype == torch.bfloat16 else result
    return type(result)(map(_widened, result)) if type(result) in (tuple, list) else result


def quantize_dynamic(model: Model, skip: Sequence[str] = STEPS) -> Model:
    """Return a copy whose linear layers hold 8-bit weights and round what they are given to 8 bits as it comes.

    Weights have a scale for each output; inputs have one for each call. Layers that somebody wraps or observes, and
    those named in ``skip``, stay as they are, as does everything that is no ``nn.Linear``. For CPUs; needs no data.

    Args:
        model: The model, in eval mode.
        skip: Last parts of the names of layers that stay float32. Defaults to ``('x_proj', 'dt_proj')``, which are a
            small part of the work and of which a scan takes exponentials.

    Returns:
        The copy, for inference alone.

    Raises:
        DeployError: If this PyTorch has no kernels of 8-bit integers, or the model no linear layer to convert.

    Examples:
        >>> from mmvim.models import Vim
        >>> model = Vim({'embed_dims': 16, 'depth': 1}, img_size=32).eval()
        >>> small = quantize_dynamic(model)
        >>> type(small.layers[0].mixer.in_proj).__module__.split('.')[:2], type(small.layers[0].mixer.x_proj).__name__
        (['torch', 'ao'], 'Linear')
    """
    if torch.backends.quantized.engine == 'none':
        raise DeployError('this PyTorch has no kernels of 8-bit integers', 'compute in float32 or bfloat16 here')
    made = with_plain_linears(copy.deepcopy(model).eval().requires_grad_(False))
    names = [
        name
        for name, module in made.named_modules()
        if type(module) is nn.Linear and is_plain(nn.Linear, module) and name.rpartition('.')[2] not in skip
    ]
    if not names:
        raise DeployError(
            f'this {type(model).__name__} has no plain linear layer beside {", ".join(skip) or "none"}',
            'quantise before optimize_for_inference, and before layers are wrapped',
        )
    with warnings.catch_warnings():  # of its successor, a package of its own
        warnings.simplefilter('ignore')
        from torch.ao.quantization import per_channel_dynamic_qconfig
        from torch.ao.quantization import quantize_dynamic as convert

        return convert(made, dict.fromkeys(names, per_channel_dynamic_qconfig), dtype=torch.qint8, inplace=True)
