"""Files for whole models of MMSegmentation, MMDetection or MMPreTrain, turned into the model's own names."""

from collections import OrderedDict

from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families import family_for, recognise
from mmvim.checkpoints.families.adapted import fusion_record
from mmvim.checkpoints.files.container import SAFETENSORS, SHARDS, check_tensors, load_file, weights_of
from mmvim.checkpoints.files.int8 import INT8
from mmvim.checkpoints.files.sources import fetch
from mmvim.checkpoints.naming import sort_tensors
from mmvim.checkpoints.report import Report


def model_weights(container: dict, source: str, key: str | None = None) -> tuple[OrderedDict[str, Tensor], Report]:
    """Take the weights for an OpenMMLab model out of a container, under the model's names.

    A wrapper's prefix is taken off, a published classifier becomes ``backbone.…`` and ``head.fc.…``, and a pyramid
    inside the backbone (Vim) becomes the neck. Files in OpenMMLab's own layout keep their names.

    Args:
        container: What :func:`mmvim.checkpoints.load_file` returned.
        source: The file, for messages.
        key: Key of the container. Defaults to None, see :func:`mmvim.checkpoints.read`.

    Returns:
        The weights by name, and a report of which tensors were dropped.

    Raises:
        CheckpointError: If the container holds no weights, or they are not finite.

    Examples:
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> container = {'model': Vim({'embed_dims': 16, 'depth': 2}).state_dict()}
        >>> weights, report = checkpoints.model_weights(container, 'vim.pth')
        >>> 'backbone.pos_embed' in weights, len(report.used) == len(container['model'])
        (True, True)
    """
    _, tensors = weights_of(container, source, key)
    check_tensors(tensors, source)
    metadata = tensors._metadata  # type: ignore[attr-defined]
    weights: OrderedDict[str, Tensor] = OrderedDict()
    layout = recognise(tensors, source)
    if layout is None:
        report = Report(source, 'checkpoint')
        for name, tensor in tensors.items():
            bare = name.removeprefix('module.')
            weights[name if bare in tensors else bare] = tensor  # never replace another tensor
    else:
        report = Report(source, f'{layout.kind} of {layout.family}')
        found = sort_tensors(tensors, layout, container)
        report.dropped.update(family_for(layout).unused(layout, found.names))
        whole = ((f'backbone.{name}', tensor) for name, tensor in found.own.items())
        weights.update((name, tensor) for name, tensor in whole if name not in report.dropped)
        weights.update(found.parts)
        if layout.adapted:
            weights.update(
                (f'backbone.{name}', record) for name, record in fusion_record(found.own, layout.kind).items()
            )
        report.note_leftovers(OrderedDict((name, tensors[name]) for name in found.rest))
        for name in report.unexpected:
            bare = name.removeprefix(layout.outer)
            if bare in weights:
                raise CheckpointError(f'{source} has two tensors for {bare}', 'give a file with one of them')
            weights[bare] = tensors[name]
        report.unexpected = []  # the model decides about them
    report.used = list(weights)
    weights._metadata = metadata  # type: ignore[attr-defined]
    return weights, report


def read_for_model(file: str, key: str | None = None) -> tuple[dict, Report]:
    """Read a checkpoint as MMEngine's runner takes it: ``state_dict`` in the model's names, and all else.

    Args:
        file: Where the file is, as for :func:`mmvim.checkpoints.read`.
        key: Key of the container. Defaults to None, see :func:`mmvim.checkpoints.read`.

    Returns:
        The checkpoint, and a report of which tensors were dropped.

    Raises:
        CheckpointError: As :func:`mmvim.checkpoints.load_file` and :func:`model_weights`.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> from mmvim.models import Vim
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': Vim({'embed_dims': 16, 'depth': 2}).state_dict(), 'epoch': 299}, file.name)
        ...     checkpoint, report = checkpoints.read_for_model(file.name)
        >>> checkpoint['epoch'], 'backbone.pos_embed' in checkpoint['state_dict']
        (299, True)
    """
    container = load_file(fetch(file), file)
    weights, report = model_weights(container, file, key)
    others = {name: value for name, value in container.items() if not isinstance(value, Tensor)}
    return {**others, 'state_dict': weights}, report


def is_native(container: dict, weights: OrderedDict[str, Tensor]) -> bool:
    """Check whether MMEngine alone would read the same weights out of a container.

    Args:
        container: What :func:`mmvim.checkpoints.load_file` returned.
        weights: What :func:`model_weights` made of it.

    Examples:
        >>> import torch
        >>> from mmvim import checkpoints
        >>> weights = {'backbone.norm.weight': torch.ones(4)}
        >>> checkpoints.is_native({'state_dict': weights}, weights), checkpoints.is_native({'model': weights}, weights)
        (True, False)
    """
    own = container.get('state_dict', container)
    if container.get('format') in (SAFETENSORS, SHARDS, INT8):
        return False
    return isinstance(own, dict) and [k for k in own if isinstance(own[k], Tensor)] == list(weights)
