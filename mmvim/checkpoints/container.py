"""From a file to the tensors in it, without running code that the file brings.

Two formats: PyTorch's (zip, and the older bare pickle), of which only tensors and the classes of :mod:`.safe_globals`
are read, and safetensors (https://github.com/huggingface/safetensors), which holds tensors only.
"""

import os
import pickle
import re
import stat
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, some
from .safe_globals import allow_checkpoint_globals

EVERYTHING = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
# Where weights lie in a container, the usual keys first; a moving average is taken only when it is asked for.
KEYS = ('state_dict', 'model')
SAFETENSORS = 'safetensors'
_ZIP, _PICKLE = b'PK\x03\x04', b'\x80'


def load_file(path: str, name: str | None = None) -> dict:
    """Read a checkpoint file as a container of plain data, mapped from the file where its format allows.

    The content decides on the format, not the name, so that blobs of a hub's cache can be read too.

    Args:
        path (str): A local file.
        name (str, optional): What to call it in messages. Defaults to None, the path.

    Returns:
        dict: What the file holds; a safetensors file becomes ``{'state_dict': tensors, 'metadata': its strings,
        'format': 'safetensors'}``.

    Raises:
        CheckpointError: If the file is missing, unreadable, no checkpoint, damaged, or holds what is not plain data.
    """
    name = name or path
    file = os.path.expanduser(path)
    size = check_header(file, name)
    with open(file, 'rb') as stream:
        head = stream.read(16)
    if not head.startswith((_ZIP, _PICKLE)):
        return _load_safetensors(file, name)
    is_zip = zipfile.is_zipfile(file)
    if head.startswith(_ZIP) and not is_zip:
        raise CheckpointError(f'{name} is truncated ({size} bytes)', 'copy or download it again')
    allow_checkpoint_globals()
    try:
        checkpoint = torch.load(
            file, map_location='cpu', mmap=is_zip, weights_only=os.environ.get(EVERYTHING, '0') in ('', '0'))
    except pickle.UnpicklingError as error:
        foreign = re.search(r'(?:GLOBAL|instantiate|function) ([\w.]+)', str(error))
        if foreign is None:
            raise _damaged(name, error) from error
        raise CheckpointError(
            f'{name} holds a {foreign[1]}, which is not plain weights; nothing of it was run',
            f'get another file, or, if you trust its author, set {EVERYTHING}=1') from error
    except Exception as error:  # what torch.load makes of a damaged file is of many kinds
        raise _damaged(name, error) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{name} holds a {type(checkpoint).__name__}, not a dict of weights',
                              'give a checkpoint')
    return checkpoint


def check_header(file: str, name: str) -> int:
    """Tell a checkpoint from a web page, a pointer and the like by its first bytes.

    Args:
        file (str): A local file.
        name (str): What to call it in messages.

    Returns:
        int: Its size in bytes.

    Raises:
        CheckpointError: If it is not there, cannot be read or is none.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise CheckpointError(f'{name} does not exist' if isinstance(error, FileNotFoundError) else
                              f'{name} cannot be read ({error.strerror})', 'give a checkpoint file') from error
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError(f'{name} is a folder', 'give a checkpoint file')
    try:
        with open(file, 'rb') as stream:
            head = stream.read(256)
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read ({error.strerror})', 'see to its permissions') from error
    if head.startswith((_ZIP, _PICKLE)) or (len(head) > 8 and head[8:9] == b'{'):
        return status.st_size
    text = head.lstrip()[:24].decode('ascii', 'replace')
    kind, remedy = 'not a checkpoint', 'download it again'
    if text.lower().startswith(('<!doctype', '<html', '<?xml')):
        kind, remedy = 'a web page', 'download the file itself, not the page about it'
    elif text.startswith('version https://git-lfs'):
        kind, remedy = 'not a checkpoint but a pointer to one', 'fetch the file itself: git lfs pull'
    raise CheckpointError(f'{name} is {kind} ({status.st_size} bytes, starting with {text!r})', remedy)


def _damaged(name: str, error: Exception) -> CheckpointError:
    words = ' '.join(str(error).split())[:120]
    return CheckpointError(f'{name} is damaged ({type(error).__name__}: {words})', 'copy or download it again')


def _load_safetensors(file: str, name: str) -> dict:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointError(f'{name} is a safetensors file, and the package for it is not installed',
                              'pip install "mmvim[safetensors]"') from error
    try:
        with safe_open(file, framework='pt', device='cpu') as stream:
            tensors = OrderedDict((key, stream.get_tensor(key)) for key in stream.keys())  # noqa: SIM118 not a dict
            return {'state_dict': tensors, 'metadata': stream.metadata() or {}, 'format': SAFETENSORS}
    except SafetensorError as error:
        raise _damaged(name, error) from error


def weights_of(container: dict, name: str, key: str | None = None) -> tuple[str, OrderedDict[str, Tensor]]:
    """The weights in a container.

    Args:
        container (dict): What :func:`load_file` returned.
        name (str): What to call it in messages.
        key (str, optional): Under which key they lie; '' for the container itself. Training scripts keep more than one
            set: 'model_ema' and 'state_dict_ema' are moving averages. Defaults to None: 'state_dict', else 'model',
            else the container itself.

    Returns:
        tuple[str, OrderedDict]: The key, and names and tensors, detached.

    Raises:
        CheckpointError: If there are none, or nothing of that key.
    """
    sets = {k: v for k, v in container.items() if isinstance(v, dict) and _tensors(v)}
    if key is None:
        key = next((k for k in KEYS if k in sets), '' if _tensors(container) else None)
        if key is None:
            remedy = f'give key={next(iter(sets))!r} if those are meant' if sets else 'give a checkpoint of a model'
            raise CheckpointError(f'{name} has no state_dict: weights lie under {sorted(sets) or "no key"} of '
                                  f'{some(container)}', remedy)
    elif key and key not in sets:
        raise CheckpointError(f'{name} has no weights under key={key!r}', f'it has them under {sorted(sets)}'
                              if sets else 'leave out the key')
    source = sets[key] if key else container
    tensors = OrderedDict((k, v.detach()) for k, v in _tensors(source).items())
    if not tensors:
        raise CheckpointError(f'{name} holds no tensors', 'give a checkpoint of a model')
    # Versions of the modules, by which their own hooks decide what to rename.
    tensors._metadata = getattr(source, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    return key, tensors


def _tensors(mapping: dict) -> dict[str, Tensor]:
    return {k: v for k, v in mapping.items() if isinstance(k, str) and isinstance(v, Tensor)}


def check_finite(tensors: dict[str, Tensor], name: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        CheckpointError: If a tensor holds NaN or infinity.
    """
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise CheckpointError(f'{name} has NaN or infinity in {len(bad)} of its {len(tensors)} tensors ({some(bad)})',
                              'its training diverged or it is damaged: take an earlier or another file')


def save_file(content: dict, path: str) -> None:
    """Write a checkpoint that is there whole or not at all; equal contents give equal bytes.

    Args:
        content (dict): What to write.
        path (str): The file; its folder must exist.

    Raises:
        CheckpointError: If it cannot be written.
    """
    target = Path(path).expanduser()
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        # Through a stream: given a path, PyTorch writes the file's name into the archive.
        with open(part, 'wb') as stream:
            torch.save(content, stream)
        part.replace(target)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be written ({error.strerror})', 'give another path') from error
    finally:
        part.unlink(missing_ok=True)
