"""What a file is by its first bytes: a checkpoint, or something that was mistaken for one."""

import json
import os
import stat

from mmvim.checkpoints.errors import CheckpointError

ZIP, PICKLE, INDEX = b'PK\x03\x04', b'\x80', b'{'
_ARCHIVES = {
    b'\x1f\x8b': 'a gzip archive',
    b'BZh': 'a bzip2 archive',
    b'\xfd7zXZ': 'an xz archive',
    b'7z\xbc\xaf': 'a 7z archive',
    b'Rar!': 'a RAR archive',
    b'\x28\xb5\x2f\xfd': 'a zstd archive',
}
_TAR_MAGIC = slice(257, 262)
_LONGEST_HEADER = 1 << 40
# An index of shards only names weights and files; a larger JSON file is something else.
_LARGEST_INDEX = 64 << 20


def check_header(file: str, name: str) -> bytes:
    """Tell a checkpoint from a web page, a pointer, an archive and the like.

    Args:
        file: A local file.
        name: What to call it in messages.

    Returns:
        How the file begins: :data:`ZIP` or :data:`PICKLE` (PyTorch's formats), :data:`INDEX` (an index of shards) or
        ``b''`` (safetensors).

    Raises:
        CheckpointError: If the file does not exist, cannot be read or is not a checkpoint.
    """
    size = _size(file, name)
    try:
        with open(file, 'rb') as stream:
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read ({error.strerror})', 'check its permissions') from error
    if head.startswith((ZIP, PICKLE)):
        return ZIP if head.startswith(ZIP) else PICKLE
    # safetensors: the length of the header in eight bytes that cannot be text, then the header
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < _LONGEST_HEADER:
        return b''
    if head.startswith(INDEX) and read_index(file, size) is not None:
        return INDEX
    text = head.lstrip()[:24].decode('ascii', 'replace')
    archive = (
        'a tar archive'
        if head[_TAR_MAGIC] == b'ustar'
        else next((kind for magic, kind in _ARCHIVES.items() if head.startswith(magic)), None)
    )
    kind, remedy = 'not a checkpoint', 'download it again'
    if archive:
        kind, remedy = archive, 'unpack it and give the checkpoint that is in it'
    elif text.lower().startswith(('<!doctype', '<html', '<?xml')):
        kind, remedy = 'a web page', 'download the file itself, not the page about it'
    elif text.startswith('version https://git-lfs'):
        kind, remedy = 'not a checkpoint but a pointer to one', 'fetch the file itself: git lfs pull'
    raise CheckpointError(f'{name} is {kind} ({size} bytes, starting with {text!r})', remedy)


def _size(file: str, name: str) -> int:
    try:
        status = os.stat(file)
    except (OSError, ValueError) as error:  # ValueError if the name has a zero byte
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) else None
        problem = f'cannot be read ({reason})' if reason else 'does not exist'
        raise CheckpointError(f'{name or repr(name)} {problem}', 'give a checkpoint file') from error
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError(f'{name} is a folder', 'give a checkpoint file')
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait until somebody writes to it
        raise CheckpointError(f'{name} is not a regular file', 'save it to disk and give that file')
    return status.st_size


def is_plain_name(shard: str) -> bool:
    """Check whether an index names a file of its own folder."""
    return shard not in ('', '.', '..') and os.path.basename(shard) == shard


def read_index(file: str, size: int = 0) -> dict[str, str] | None:
    """Read the index of a checkpoint in shards, as the libraries around the Hugging Face hub write it.

    Args:
        file: ``*.index.json``, beside the shards.
        size: Bytes of the file, if known. Defaults to 0.

    Returns:
        For each weight the name of the file, in the same folder, that holds it; None if this is not such an index.
    """
    if size > _LARGEST_INDEX:
        return None
    try:
        with open(file, encoding='utf-8') as stream:
            content = json.load(stream)
    except (OSError, ValueError, RecursionError):  # the last, if it is nested too deeply
        return None
    found = content.get('weight_map') if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) for shard in found.values()):
        return None
    return found
