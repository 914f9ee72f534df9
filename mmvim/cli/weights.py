"""Checks, before the runner exists, that a file is a checkpoint and that it is of this model."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.model.weight_init import initialize
from torch import nn

from mmvim import checkpoints
from mmvim.cli.errors import ENVIRONMENT, USAGE, UserError, warn
from mmvim.models.backbones.base import Backbone

# Below this share of names in common a checkpoint is taken for one of another model.
_SAME_MODEL = 0.5
# PyTorch's wording: the checkpoint's shape, then the model's.
_MISMATCH = re.compile(r'size mismatch for (\S+): .*?torch\.Size(\(\[.*?\]\)).*?torch\.Size(\(\[.*?\]\))')


def is_remote(path: str) -> bool:
    """Check whether a path is fetched from elsewhere (``https://``, ``hf://``, ``open-mmlab://`` ...).

    Args:
        path: The path.

    Examples:
        >>> from mmvim.cli import is_remote
        >>> is_remote('https://example.org/vim.pth'), is_remote('published://work_dirs/vim.pth')
        (True, False)
    """
    return '://' in path and not path.startswith(checkpoints.PUBLISHED)


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Raise errors about a checkpoint inside the block as :class:`UserError`.

    Raises:
        UserError: If the checkpoint cannot be read or does not fit.

    Examples:
        >>> from mmvim import checkpoints
        >>> from mmvim.cli import UserError, checkpoint_errors
        >>> try:
        ...     with checkpoint_errors():
        ...         checkpoints.load_file('gone.pth', '--resume gone.pth')
        ... except UserError as error:
        ...     print(error.status)
        1
    """
    try:
        yield
    except checkpoints.CheckpointError as error:
        raise UserError(error.problem, error.remedy, USAGE if error.misfit else ENVIRONMENT) from error


def local_checkpoint(path: str) -> str | None:
    """Return the local file of a checkpoint, downloaded if need be; None for the kinds that only MMEngine fetches.

    Args:
        path: A path or an address.

    Raises:
        UserError: If it cannot be fetched.

    Examples:
        >>> from mmvim.cli import local_checkpoint
        >>> local_checkpoint('work_dirs/iter_1000.pth'), local_checkpoint('open-mmlab://resnet50')
        ('work_dirs/iter_1000.pth', None)
    """
    if not checkpoints.can_fetch(path):
        return None
    with checkpoint_errors():
        return checkpoints.fetch(path)


def read_checkpoint(path: str, option: str) -> dict:
    """Read a checkpoint as plain weights, mapped from the file where its format allows.

    Args:
        path: A local file.
        option: What the user calls it, for messages.

    Returns:
        What the file holds.

    Raises:
        UserError: If the file is missing, is not a checkpoint, is truncated, or holds objects that are not weights.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim.cli import read_checkpoint
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'state_dict': {'weight': torch.ones(2)}}, file.name)
        ...     read_checkpoint(file.name, '--resume')
        {'state_dict': {'weight': tensor([1., 1.])}}
    """
    if not os.path.exists(os.path.expanduser(path)):
        raise UserError(f'{option} {path} does not exist', 'give a checkpoint file')
    with checkpoint_errors():
        return checkpoints.load_file(path, f'{option} {path}')


def state_dict_of(checkpoint: dict, path: str, option: str) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint under the names of an OpenMMLab model, whoever published it.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        path: The file, for messages.
        option: What the user calls it, for messages.

    Returns:
        Names and tensors.

    Raises:
        UserError: If it holds no tensors where they are expected, or some that are not finite.

    Examples:
        >>> import torch
        >>> from mmvim.cli import state_dict_of
        >>> state_dict_of({'state_dict': {'weight': torch.ones(2)}, 'meta': {}}, 'a.pth', '--resume')['weight']
        tensor([1., 1.])
    """
    with checkpoint_errors():
        return checkpoints.model_weights(checkpoint, f'{option} {path}')[0]


def runner_checkpoint(path: str, checkpoint: dict, weights: dict[str, torch.Tensor]) -> str:
    """Return the path that makes MMEngine's runner load the weights that were checked.

    Args:
        path: The file.
        checkpoint: What :func:`read_checkpoint` returned.
        weights: What :func:`state_dict_of` returned.

    Returns:
        The path itself if MMEngine reads the same weights from it, else the path behind ``published://``.

    Examples:
        >>> import torch
        >>> from mmvim.cli import runner_checkpoint
        >>> weights = {'weight': torch.ones(2)}
        >>> runner_checkpoint('iter_1000.pth', {'state_dict': weights}, weights)
        'iter_1000.pth'
    """
    return path if checkpoints.is_native(checkpoint, weights) else checkpoints.PUBLISHED + os.path.abspath(path)


def check_fit(model: nn.Module, weights: dict[str, torch.Tensor], path: str, option: str, complete: bool) -> None:
    """Check that weights are of this model.

    With ``complete`` they are loaded into it, so that the model's own hooks (resizing, renaming) apply.

    Args:
        model: The model, as :func:`build_model` returns it.
        weights: Names and tensors.
        path: The file, for messages.
        option: What the user calls it, for messages.
        complete: Whether every weight of the model must be there: True to test or resume, False to start training from.

    Raises:
        UserError: If few or no names match, or, with ``complete``, if a weight is missing or has another shape.

    Examples:
        >>> import torch
        >>> from mmvim.cli import UserError, check_fit
        >>> model = torch.nn.Linear(2, 1)
        >>> check_fit(model, model.state_dict(), 'a.pth', '--resume', complete=True)
        >>> try:
        ...     check_fit(model, {'weight': torch.ones(3, 2)}, 'b.pth', '--resume', complete=True)
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        --resume b.pth is of another model: weight has shape ([3, 2]) in it and ([1, 2]) in this Linear
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
        cfg: The config.
        model: The model, as :func:`build_model` returns it; backbones of mmvim receive their weights.

    Raises:
        UserError: If a file does not exist, cannot be read or does not fit.

    Examples:
        >>> from mmengine.config import Config
        >>> from torch import nn
        >>> from mmvim.cli import UserError, check_pretrained
        >>> init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
        >>> try:
        ...     check_pretrained(Config(dict(model=dict(type='Vim', init_cfg=init_cfg))), nn.Identity())
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        model.init_cfg.checkpoint gone.pth does not exist
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
