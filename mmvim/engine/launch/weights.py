"""Is a file a checkpoint, and is it one of this model? Asked before the runner exists."""

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator

import torch
from mmengine.config import Config
from torch import nn

from .errors import ENVIRONMENT, USAGE, UserError, describe, warn
from .safe_globals import allow_checkpoint_globals

# Below this share of names in common a checkpoint is taken for one of another model.
_SAME_MODEL = 0.5
# PyTorch's wording: the checkpoint's shape, then the model's.
_MISMATCH = re.compile(r'size mismatch for (\S+): .*?torch\.Size(\(\[.*?\]\)).*?torch\.Size(\(\[.*?\]\))')
_EVERYTHING = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


def is_remote(path: str) -> bool:
    """Whether MMEngine fetches the path from elsewhere (``https://``, ``open-mmlab://``, ``torchvision://`` ...)."""
    return '://' in path


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
    file = os.path.expanduser(path)
    if not os.path.isfile(file):
        kind = 'is a folder' if os.path.isdir(file) else 'does not exist'
        raise UserError(f'{option} {path} {kind}', 'give a .pth file')
    with open(file, 'rb') as stream:
        head = stream.read(64)
    size = os.path.getsize(file)
    if not head.startswith((b'PK\x03\x04', b'\x80')):
        text = head.lstrip()[:24].decode('ascii', 'replace')
        kind = 'a web page' if text.lower().startswith(('<!doctype', '<html')) else 'not a checkpoint'
        raise UserError(f'{option} {path} is {kind} ({size} bytes, starting with {text!r})', 'download it again',
                        ENVIRONMENT)
    is_zip = zipfile.is_zipfile(file)
    if head.startswith(b'PK') and not is_zip:
        raise UserError(f'{option} {path} is truncated ({size} bytes)', 'copy or download it again', ENVIRONMENT)
    allow_checkpoint_globals()
    try:
        checkpoint = torch.load(
            file, map_location='cpu', mmap=is_zip, weights_only=os.environ.get(_EVERYTHING, '0') in ('', '0'))
    except pickle.UnpicklingError as error:
        foreign = re.search(r'GLOBAL ([\w.]+)', str(error))
        if foreign is None:
            raise UserError(f'{option} {path} is damaged: {describe(error, 120)}', 'copy or download it again',
                            ENVIRONMENT) from error
        raise UserError(
            f'{option} {path} holds a {foreign[1]}, which is not plain weights',
            f'if you trust its author, set {_EVERYTHING}=1', ENVIRONMENT) from error
    except Exception as error:  # what torch.load makes of a damaged file is of many kinds
        raise UserError(f'{option} {path} is damaged: {describe(error, 120)}', 'copy or download it again',
                        ENVIRONMENT) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'{option} {path} holds a {type(checkpoint).__name__}, not a dict of weights',
                        'give a checkpoint', ENVIRONMENT)
    return checkpoint


def state_dict_of(checkpoint: dict, path: str, option: str) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, without the prefix that a wrapper adds.

    Raises:
        UserError: If it holds no tensors where MMEngine looks for them.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    tensors = OrderedDict()
    if isinstance(weights, dict):
        tensors.update((re.sub(r'^module\.', '', k), v) for k, v in weights.items() if isinstance(v, torch.Tensor))
        # Versions of the modules, by which their own hooks decide what to rename.
        tensors._metadata = getattr(weights, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    if not tensors:
        inner = [key for key, value in checkpoint.items() if isinstance(value, dict)]
        hint = f'its weights may be under {inner[0]!r}: convert it first' if inner else 'give a checkpoint of a model'
        raise UserError(f'{option} {path} has no state_dict', hint, ENVIRONMENT)
    return tensors


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
            f'{example}', 'give the config that it was trained with', USAGE)
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
            'give the config that it was trained with', USAGE) from error
    # An auxiliary head serves training only; counters of BatchNorm are absent from old checkpoints.
    missing = [name for name in result.missing_keys
               if not name.endswith('num_batches_tracked') and not name.startswith('auxiliary_head')]
    if missing:
        raise UserError(
            f'{option} {path} lacks {len(missing)} of the {len(own)} weights of this {kind}, e.g. {missing[0]}',
            'give the config that it was trained with', USAGE)
    if result.unexpected_keys:
        warn(f'{option} {path} has {len(result.unexpected_keys)} weights that this {kind} does not use, '
             f'e.g. {result.unexpected_keys[0]}')


def check_pretrained(cfg: Config) -> None:
    """Check that the local files that ``init_cfg`` of the model's parts will read exist.

    Raises:
        UserError: If one does not.
    """
    for path, file in _pretrained(cfg.model, ('model', )):
        if isinstance(file, str) and not is_remote(file) and not os.path.isfile(os.path.expanduser(file)):
            option = '.'.join(path)
            raise UserError(f'{option} {file} does not exist',
                            f'download it, or pass --cfg-options {option}=PATH', ENVIRONMENT)


def _pretrained(node: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained' and 'checkpoint' in node:
            yield (*path, 'checkpoint'), node['checkpoint']
        if node.get('pretrained') is not None:
            yield (*path, 'pretrained'), node['pretrained']
        for key, value in node.items():
            yield from _pretrained(value, (*path, str(key)))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _pretrained(value, (*path, str(index)))
