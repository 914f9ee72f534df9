"""A file for a whole model of MMSegmentation, MMDetection or MMPreTrain, whose names are the model's own after this."""

from collections import OrderedDict

from torch import Tensor

from mmvim.checkpoints.container import SAFETENSORS, SHARDS, check_tensors, load_file, weights_of
from mmvim.checkpoints.errors import CheckpointError
from mmvim.checkpoints.families import recognise
from mmvim.checkpoints.naming import sort_tensors
from mmvim.checkpoints.report import Report
from mmvim.checkpoints.sources import fetch


def model_weights(container: dict, source: str, key: str | None = None) -> tuple['OrderedDict[str, Tensor]', Report]:
    """Weights for an OpenMMLab model out of a container, in the model's names.

    A wrapper's prefix is taken off, a published classifier becomes `backbone.…` and `head.fc.…`, Vim's pyramid inside
    the backbone becomes the neck. Files of OpenMMLab's own layout pass as they are.

    Args:
        container (dict): What :func:`mmvim.checkpoints.load_file` returned.
        source (str): The file, for messages.
        key (str, optional): Key of the container. Defaults to None, see :func:`mmvim.checkpoints.read`.

    Returns:
        tuple[OrderedDict, Report]: Names and tensors, and which of the file's were dropped.

    Raises:
        CheckpointError: If there are no weights in it, or they are not finite.
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
            weights[name if bare in tensors else bare] = tensor  # not in the place of another
    else:
        report = Report(source, f'{layout.kind} of {layout.family}')
        found = sort_tensors(tensors, layout)
        pyramid = any(
            name.startswith('neck.') and given.startswith(layout.prefix) for name, given in found.names.items()
        )
        for name, tensor in found.own.items():
            reason = _never_used(name) if pyramid else None
            if reason:
                report.dropped[f'backbone.{name}'] = reason
            else:
                weights[f'backbone.{name}'] = tensor
        weights.update(found.parts)
        report.note_leftovers(OrderedDict((name, tensors[name]) for name in found.rest))
        for name in report.unexpected:
            bare = name.removeprefix(layout.outer)
            if bare in weights:
                raise CheckpointError(f'{source} has two tensors for {bare}', 'give a file with one of them')
            weights[bare] = tensors[name]
        report.unexpected = []  # the model decides
    report.used = list(weights)
    weights._metadata = metadata  # type: ignore[attr-defined]
    return weights, report


def _never_used(name: str) -> str | None:
    """Why Vim's dense models have a tensor that they do nothing with."""
    if name.startswith('norm_f.'):
        return 'final norm of the classifier, which dense models do not apply'
    if name.startswith('rope.'):
        return 'angles of RoPE, computed from the grid'
    return None


def read_for_model(file: str, key: str | None = None) -> tuple[dict, Report]:
    """A checkpoint as MMEngine's runner takes it: the file's other content, and `state_dict` in the model's names.

    Args:
        file (str): As for :func:`mmvim.checkpoints.read`.
        key (str, optional): Key of the container. Defaults to None, see :func:`mmvim.checkpoints.read`.

    Returns:
        tuple[dict, Report]: The checkpoint, and which tensors were dropped.

    Raises:
        CheckpointError: As :func:`mmvim.checkpoints.load_file` and :func:`model_weights`.
    """
    container = load_file(fetch(file), file)
    weights, report = model_weights(container, file, key)
    others = {name: value for name, value in container.items() if not isinstance(value, Tensor)}
    return {**others, 'state_dict': weights}, report


def is_native(container: dict, weights: 'OrderedDict[str, Tensor]') -> bool:
    """Whether MMEngine alone would read the same weights out of a container."""
    own = container.get('state_dict', container)
    if container.get('format') in (SAFETENSORS, SHARDS):
        return False
    return isinstance(own, dict) and [k for k in own if isinstance(own[k], Tensor)] == list(weights)
