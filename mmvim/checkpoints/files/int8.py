"""Weights in 8 bits: matrices and filters as integers, with a scale for each of their rows; all else as it is.

A file of them is a quarter as long, and is read like any other (:func:`mmvim.checkpoints.load_file`): what computes
gets float32 weights, rounded to one of 255 levels of the largest in their row. Only the file is in 8 bits; for
products of 8-bit integers see :func:`mmvim.deploy.quantize_dynamic`.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError, some

INT8 = 'mmvim-int8'  # the container's format
LEAST = 1024  # numbers, below which a tensor is not worth it
_LEVELS = 127


def is_packed(name: str, tensor: Tensor) -> bool:
    """Return whether a weight is one of those that are stored in 8 bits: matrices and filters that are called weights.

    Logarithms of decays, positions, norms and biases are not, nor is the projection to the step of a scan.

    Examples:
        >>> is_packed('layers.0.mixer.in_proj.weight', torch.zeros(64, 32)), is_packed('pos_embed', torch.zeros(64, 32))
        (True, False)
    """
    own = name.rpartition('.')[2]
    return (
        own.endswith('weight')
        and 'dt_proj' not in name
        and tensor.is_floating_point()
        and tensor.ndim > 1
        and tensor.numel() >= LEAST
    )


def pack(weights: Mapping[str, Tensor]) -> dict:
    """Return a container with weights in 8 bits, to be written by :func:`mmvim.checkpoints.save_file`.

    Args:
        weights: By name, as a ``state_dict`` has them.

    Returns:
        'format'; 'weights', with int8 tensors in place of those that are packed; and 'scales', float32 (rows, 1, ..) by
        name. No key is called 'state_dict', for tools that know nothing of scales.

    Raises:
        CheckpointError: If one of those is not finite.

    Examples:
        >>> packed = pack({'head.weight': torch.randn(64, 32), 'head.bias': torch.randn(64)})
        >>> {name: value.dtype for name, value in packed['weights'].items()}
        {'head.weight': torch.int8, 'head.bias': torch.float32}
    """
    stored: OrderedDict[str, Tensor] = OrderedDict()
    scales: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in weights.items():
        stored[name] = value.detach().cpu()
        if not is_packed(name, value):
            continue
        wide = stored[name].float()
        largest = wide.abs().amax(tuple(range(1, wide.ndim)), keepdim=True)
        if not torch.isfinite(largest).all():
            raise CheckpointError(f'{name} has NaN or infinity', 'take finite ones')
        scales[name] = largest / _LEVELS
        divisor = torch.where(largest > 0, scales[name], torch.ones(()))  # a row of zeros has the scale 0
        stored[name] = (wide / divisor).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    return {'format': INT8, 'weights': stored, 'scales': scales}


def unpack(container: dict, name: str) -> dict:
    """Return a container whose weights are float32 again, under 'state_dict'.

    Args:
        container: What :func:`pack` has made; others are returned as they are.
        name: What to call the file in messages.

    Raises:
        CheckpointError: If scales are missing or do not fit.

    Examples:
        >>> weights = {'head.weight': torch.randn(64, 32)}
        >>> read = unpack(pack(weights), 'small.pth')['state_dict']['head.weight']
        >>> bool((read - weights['head.weight']).abs().max() < 0.02), read.dtype
        (True, torch.float32)
    """
    if container.get('format') != INT8:
        return container
    scales, weights = container.get('scales'), container.get('weights')
    if not isinstance(scales, dict) or not isinstance(weights, dict):
        raise CheckpointError(f'{name} lacks the scales or the weights of its format', 'export it again')
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f'{name} has weights that are no tensors', 'export it again')
    wrong = [key for key, value in weights.items() if value.dtype == torch.int8 and not _fits(scales.get(key), value)]
    if wrong:
        raise CheckpointError(f'{name} has no scales that fit {some(wrong)}', 'export it again')
    read = OrderedDict(
        (key, value.float() * scales[key] if value.dtype == torch.int8 else value) for key, value in weights.items()
    )
    return {**{key: value for key, value in container.items() if key not in ('scales', 'weights')}, 'state_dict': read}


def _fits(scale: object, value: Tensor) -> bool:
    return isinstance(scale, Tensor) and value.ndim > 1 and scale.shape == (len(value), *(1,) * (value.ndim - 1))
