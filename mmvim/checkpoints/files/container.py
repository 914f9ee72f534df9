"""Files and the tensors in them, read without running any code that a file brings.

There are two formats: PyTorch's (zip, and the older bare pickle), of which only tensors and the classes of
:mod:`.safe_globals` are accepted, and safetensors (https://github.com/huggingface/safetensors), which holds nothing but
tensors.
"""

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from mmvim.checkpoints.errors import CheckpointError, as_damage, some
from mmvim.checkpoints.files.header import INDEX, PICKLE, ZIP, check_header, is_plain_name, read_index
from mmvim.checkpoints.files.int8 import unpack
from mmvim.checkpoints.files.safe_globals import allow_checkpoint_globals

EVERYTHING = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
# Keys of the weights in a container, the usual one first; a moving average is taken only on request.
KEYS = ('state_dict', 'model')
SAFETENSORS, SHARDS = 'safetensors', 'shards'
# An archive that unpacks to more than this many bytes, and to more than this many times its own, is a bomb.
_LARGEST_UNPACKED, _DENSEST = 1 << 28, 20


def load_file(path: str, name: str | None = None) -> dict:
    """Read a checkpoint file as a container of plain data, memory-mapped where its format allows.

    The content decides the format, not the name, so that blobs in a hub's cache can be read too.

    Args:
        path: A local file. An index of shards (``*.index.json``) stands for the files beside it that it names.
        name: What to call the file in messages. Defaults to None, the path.

    Returns:
        What the file holds. A safetensors file becomes ``{'state_dict': tensors, 'metadata': its strings, 'format':
        'safetensors'}``, an index ``{'state_dict': tensors of all shards, 'format': 'shards'}``.

    Raises:
        CheckpointError: If the file is missing, unreadable, damaged or not a checkpoint, or holds more than plain data.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': {'norm.weight': torch.ones(4)}, 'epoch': 3}, file.name)
        ...     container = checkpoints.load_file(file.name)
        >>> container['epoch'], container['model']['norm.weight'].shape
        (3, torch.Size([4]))
    """
    name, file = name or str(path), os.path.expanduser(path)
    with as_damage(name):
        return _load(file, name)


def _load(file: str, name: str) -> dict:
    head = check_header(file, name)
    if head == INDEX:
        return _load_shards(file, name)
    if head not in (ZIP, PICKLE):
        return _load_safetensors(file, name)
    mapped = False
    if head == ZIP:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f'{name} is truncated ({os.path.getsize(file)} bytes)', 'copy or download it again')
        mapped = _check_archive(file, name)
    allow_checkpoint_globals()
    try:
        checkpoint = torch.load(
            file, map_location='cpu', mmap=mapped, weights_only=os.environ.get(EVERYTHING, '0') in ('', '0')
        )
    except pickle.UnpicklingError as error:
        foreign = re.search(r'(?:GLOBAL|instantiate|function) ([\w.]+)', str(error))
        if foreign is None:
            raise
        raise CheckpointError(
            f'{name} holds a {foreign[1]}, which is not plain weights; nothing of it was run',
            f'get another file, or, if you trust its author, set {EVERYTHING}=1',
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{name} holds a {type(checkpoint).__name__}, not a dict of weights', 'give a checkpoint')
    for mapping in (checkpoint, *dict.values(checkpoint)):
        if type(mapping) is OrderedDict:
            _strip(mapping)
    return unpack(checkpoint, name)


def _strip(mapping: OrderedDict) -> None:
    """Remove the attributes that a pickle has given a mapping, which can hide its methods; keep versions of modules."""
    versions = vars(mapping).get('_metadata')
    vars(mapping).clear()
    if isinstance(versions, dict):
        kept = ((name, dict(own)) for name, own in dict.items(versions) if isinstance(own, dict))
        mapping._metadata = OrderedDict(  # type: ignore[attr-defined]
            (name, own) for name, own in kept if isinstance(own.get('version'), (int, type(None)))
        )


def check_bytes(path: str, name: str | None = None) -> None:
    """Check every byte of a checkpoint in PyTorch's zip format against the checksums in it.

    :func:`load_file` finds what is missing; this finds bits that have changed on a disk or on the way. It reads the
    whole file once. Other formats have no checksums.

    Args:
        path: A local file.
        name: What to call the file in messages. Defaults to None, the path.

    Raises:
        CheckpointError: If a checksum does not agree, or the archive cannot be read.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'model': {'norm.weight': torch.ones(64)}}, file.name)
        ...     checkpoints.check_bytes(file.name)
    """
    name, file = name or str(path), os.path.expanduser(path)
    if check_header(file, name) != ZIP:
        return
    with as_damage(name), zipfile.ZipFile(file) as archive:
        # PyTorch can be told to leave the checksums out, and then writes the same number everywhere.
        checksums = {member.CRC for member in archive.infolist()}
        wrong = archive.testzip() if len(checksums) > 1 else None
    if wrong is not None:
        raise CheckpointError(f'{name} is damaged (the checksum of {wrong} is wrong)', 'copy or download it again')


def _check_archive(file: str, name: str) -> bool:
    """Check that a zip file is one of PyTorch's archives of weights.

    Returns:
        True if its tensors can be memory-mapped, which a repacked and compressed archive does not allow.

    Raises:
        CheckpointError: If it is any other zip file, or a TorchScript program.
    """
    with zipfile.ZipFile(file) as archive:
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        size = sum(member.file_size for member in archive.infolist())
        members = archive.namelist()
    if size > max(_LARGEST_UNPACKED, _DENSEST * os.path.getsize(file)):
        raise CheckpointError(f'{name} would unpack to {size >> 20} MiB, which weights do not', 'get another file')
    inside = {member.split('/', 1)[-1] for member in members}
    if 'constants.pkl' in inside:
        raise CheckpointError(f'{name} is a TorchScript program, not weights', 'give the checkpoint it was made from')
    if 'data.pkl' not in inside:
        raise CheckpointError(
            f'{name} is a zip archive of {some(members) or "nothing"}, not a checkpoint',
            'unpack it and give the checkpoint that is in it',
        )
    return stored


def _load_shards(file: str, name: str) -> dict:
    index = read_index(file) or {}
    shards = dict.fromkeys(index.values())
    outside = next((shard for shard in shards if not is_plain_name(shard)), None)
    if outside is not None:
        raise CheckpointError(f'{name} names a shard outside of its folder: {outside!r}', 'get another file')
    tensors = {}
    for shard in shards:
        here, path = f'{name}: shard {shard}', str(Path(file).with_name(shard))
        if check_header(path, here) == INDEX:  # which might name this one again
            raise CheckpointError(f'{here} is an index itself', 'download index and shards again')
        tensors[shard] = weights_of(load_file(path, here), here)[1]
    lost = [weight for weight, shard in index.items() if weight not in tensors[shard]]
    if lost:
        raise CheckpointError(
            f'{name} names {len(lost)} weights that are not in their shards ({some(lost)})',
            'download index and shards again',
        )
    return {
        'state_dict': OrderedDict((weight, tensors[shard][weight]) for weight, shard in index.items()),
        'format': SHARDS,
    }


def _load_safetensors(file: str, name: str) -> dict:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(
            f'{name} is a safetensors file, and the package for it is not installed', 'pip install "mmvim[safetensors]"'
        ) from error
    with safe_open(file, framework='pt', device='cpu') as stream:
        tensors = OrderedDict((key, stream.get_tensor(key)) for key in stream.keys())  # noqa: SIM118 not a dict
        return {'state_dict': tensors, 'metadata': stream.metadata() or {}, 'format': SAFETENSORS}


def weights_of(container: dict, name: str, key: str | None = None) -> tuple[str, OrderedDict[str, Tensor]]:
    """Find the weights in a container.

    Args:
        container: What :func:`load_file` returned.
        name: What to call the file in messages.
        key: The key that holds the weights; '' if the container itself does. Training scripts keep more than one set:
            'model_ema' and 'state_dict_ema' are moving averages. Defaults to None: 'state_dict', else 'model', else the
            container itself.

    Returns:
        The key, and the weights by name, detached.

    Raises:
        CheckpointError: If there are no weights, or none under that key.
    """
    if key is not None and not isinstance(key, str):
        raise CheckpointError(f'key={key!r} is not a string', 'give the key of a container, such as model_ema')
    sets = {k: v for k, v in container.items() if isinstance(v, dict) and _tensors(v)}
    if key is None:
        key = next((k for k in KEYS if k in sets), '' if _tensors(container) else None)
        if key is None:
            remedy = f'give key={next(iter(sets))!r} if those are meant' if sets else 'give a checkpoint of a model'
            keys = sorted(map(str, sets)) or 'no key'
            raise CheckpointError(f'{name} has no state_dict: weights lie under {keys} of {some(container)}', remedy)
    elif key and key not in sets:
        raise CheckpointError(
            f'{name} has no weights under key={key!r}',
            f'it has them under {sorted(map(str, sets))}' if sets else 'leave out the key',
        )
    source = sets[key] if key else container
    tensors = OrderedDict((k, v.detach()) for k, v in _tensors(source).items())
    if not tensors:
        raise CheckpointError(f'{name} holds no tensors', 'give a checkpoint of a model')
    # Versions of the modules, from which their own hooks tell what to rename.
    tensors._metadata = getattr(source, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    return key, tensors


def _tensors(mapping: dict) -> dict[str, Tensor]:
    return {k: v for k, v in mapping.items() if isinstance(k, str) and isinstance(v, Tensor)}


def check_tensors(tensors: dict[str, Tensor], name: str) -> None:
    """Refuse weights that are not finite numbers, or are stored in a way that cannot be copied into a model.

    Raises:
        CheckpointError: If a tensor holds NaN or infinity, or is complex, quantized, sparse or without data.
    """
    odd = {k: kind for k, v in tensors.items() if (kind := _oddity(v))}
    if odd:
        raise CheckpointError(
            f'{name} holds {len(odd)} tensors that are not plain weights '
            f'({some(f"{k}: {kind}" for k, kind in odd.items())})',
            'save them as dense floating-point tensors',
        )
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not _is_finite(v)]
    if bad:
        raise CheckpointError(
            f'{name} has NaN or infinity in {len(bad)} of its {len(tensors)} tensors ({some(bad)})',
            'its training diverged or it is damaged: take an earlier or another file',
        )


def _oddity(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return 'without data'
    if tensor.is_quantized:
        return 'quantized'
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix('torch.')
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        return 'expanded'  # a few bytes can claim to be any number of values
    return 'complex' if tensor.is_complex() else None


def _is_finite(tensor: Tensor) -> bool:
    if tensor.dtype.itemsize in (1, 8):  # PyTorch cannot test 8 bits; 64 may exceed a float32 weight
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())
