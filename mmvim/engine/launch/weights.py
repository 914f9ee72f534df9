"""Is a file a checkpoint, and is it one of this model? Asked before the runner exists."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.model.weight_init import initialize
from torch import nn

from mmvim import checkpoints
from mmvim.engine.launch.errors import ENVIRONMENT, USAGE, UserError, warn
from mmvim.models.backbones.base import Backbone

# Below this share of names in common a checkpoint is taken for one of another model.
_SAME_MODEL = 0.5
# PyTorch's wording: the checkpoint's shape, then the model's.
_MISMATCH = re.compile(r'size mismatch for (\S+): .*?torch\.Size(\(\[.*?\]\)).*?torch\.Size(\(\[.*?\]\))')


def is_remote(path: str) -> bool:
    """Whether the path is fetched from elsewhere (``https://``, ``hf://``, ``open-mmlab://`` ...)."""
    return '://' in path and not path.startswith(checkpoints.PUBLISHED)


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """An error about a checkpoint becomes the user's.

    Raises:
        UserError: If the checkpoint cannot be read or does not fit.
    """
    try:
        yield
    except checkpoints.CheckpointError as error:
        raise UserError(error.problem, error.remedy, USAGE if error.misfit else ENVIRONMENT) from error


def local_checkpoint(path: str) -> str | None:
    """The file of a checkpoint, fetched if it lies elsewhere; None for the kinds that only MMEngine fetches.

    Raises:
        UserError: If it cannot be fetched.
    """
    if not checkpoints.can_fetch(path):
        return None
    with checkpoint_errors():
        return checkpoints.fetch(path)


def read_checkpoint(path: str, option: str) -> dict:
    """Read a checkpoint as plain weights, mapped from the file where its format allows.

    Args:
        path (str): A local file.
        option (str): What the user calls it, for messages.

    Returns:
        dict: What the file holds.

    Raises:
        UserError: If the file is missing, is no checkpoint, is truncated, or holds objects that are not weights.
    """
    if not os.path.exists(os.path.expanduser(path)):
        raise UserError(f'{option} {path} does not exist', 'give a checkpoint file')
    with checkpoint_errors():
        return checkpoints.load_file(path, f'{option} {path}')


def state_dict_of(checkpoint: dict, path: str, option: str) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint in the names of an OpenMMLab model, whoever published it.

    Raises:
        UserError: If it holds no tensors where they are looked for, or some that are not finite.
    """
    with checkpoint_errors():
        return checkpoints.model_weights(checkpoint, f'{option} {path}')[0]


def runner_checkpoint(path: str, checkpoint: dict, weights: dict[str, torch.Tensor]) -> str:
    """What to give to MMEngine's runner, so that it loads the weights that were checked.

    Args:
        path (str): The file.
        checkpoint (dict): What :func:`read_checkpoint` returned.
        weights (dict): What :func:`state_dict_of` returned.

    Returns:
        str: The path where MMEngine reads the same, else the path behind ``published://``.
    """
    return path if checkpoints.is_native(checkpoint, weights) else checkpoints.PUBLISHED + os.path.abspath(path)


def check_fit(model: nn.Module, weights: dict[str, torch.Tensor], path: str, option: str, complete: bool) -> None:
    """Check that weights are of this model. Loads them into it, so that its own hooks (resizing, renaming) have a say.

    Args:
        model (nn.Module): The model, built for this purpose.
        weights (dict): Names and tensors.
        path (str): The file, for messages.
        option (str): What the user calls it.
        complete (bool): Whether the model must be filled: True to test or resume, False to start training from.

    Raises:
        UserError: If few or no names match, or, with ``complete``, if a weight is missing or has another shape.
    """
    own = model.state_dict()
    common = own.keys() & weights.keys()
    kind = type(model).__name__
    other = next((name for name in weights if name not in own), None)
    lacking = next((name for name in own if name not in weights), None)
    if len(common) < _SAME_MODEL * (len(own) if complete else 1):
        example = ''.join((f', e.g. it has {other}' if other else '', f' and lacks {lacking}' if lacking else ''))
        raise UserError(
            f'{option} {path} is of another model: {len(common)} of the {len(own)} weights of this {kind} are in it'
            f'{example}',
            'give the config that it was trained with',
            USAGE,
        )
    if not complete:
        return
    try:
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        mismatch = _MISMATCH.search(str(error))
        if mismatch is None:
            raise
        name, theirs, ours = mismatch.groups()
        raise UserError(
            f'{option} {path} is of another model: {name} has shape {theirs} in it and {ours} in this {kind}',
            'give the config that it was trained with',
            USAGE,
        ) from error
    counts = next((name for name in common if own[name].is_floating_point() > weights[name].is_floating_point()), None)
    if counts is not None:
        raise UserError(f'{option} {path} has integers for {counts}', 'give a checkpoint of floating-point weights')
    # An auxiliary head serves training only; counters of BatchNorm are absent from old checkpoints.
    missing = [
        name
        for name in result.missing_keys
        if not name.endswith('num_batches_tracked') and not name.startswith('auxiliary_head')
    ]
    if missing:
        raise UserError(
            f'{option} {path} lacks {len(missing)} of the {len(own)} weights of this {kind}, e.g. {missing[0]}',
            'give the config that it was trained with',
            USAGE,
        )
    if result.unexpected_keys:
        warn(
            f'{option} {path} has {len(result.unexpected_keys)} weights that this {kind} does not use, '
            f'e.g. {result.unexpected_keys[0]}'
        )


def check_pretrained(cfg: Config, model: nn.Module) -> None:
    """Check the files that ``init_cfg`` of the model's parts will read: that they exist, and that a backbone's fits.

    Args:
        cfg (Config): The config.
        model (nn.Module): The model, built for such questions; backbones of mmvim receive their weights.

    Raises:
        UserError: If a file does not exist, cannot be read or does not fit.
    """
    for path, file in _pretrained(cfg.model, ('model',)):
        if isinstance(file, str) and not is_remote(file) and not os.path.exists(os.path.expanduser(file)):
            option = '.'.join(path)
            raise UserError(
                f'{option} {file} does not exist', f'download it, or pass --cfg-options {option}=PATH', ENVIRONMENT
            )
    for module in model.modules():
        if isinstance(module, Backbone):
            with checkpoint_errors():
                initialize(module, module.pretrained())


def _pretrained(node: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(node, dict):
        if node.get('type') in ('Pretrained', 'mmvim.Pretrained') and 'checkpoint' in node:
            yield (*path, 'checkpoint'), node['checkpoint']
        if node.get('pretrained') is not None:
            yield (*path, 'pretrained'), node['pretrained']
        for key, value in node.items():
            yield from _pretrained(value, (*path, str(key)))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _pretrained(value, (*path, str(index)))
