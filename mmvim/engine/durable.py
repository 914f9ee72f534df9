"""Files that are there as a whole or not at all, whenever the process or the machine dies."""

import contextlib
import os
import shutil
from pathlib import Path

# Ends the name of what is being written; nothing that reads checkpoints takes such a file for one.
PARTIAL = '.partial'


def flush(path: Path) -> None:
    """Have the system put a file, or all files of a folder and the folder's list of names, on the disk.

    Args:
        path: The file or folder.

    Raises:
        OSError: If a file cannot be put there, as on a full disk that accepted it at first.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mmvim.engine.durable import flush
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, 'a').write_text('b')
        ...     flush(Path(folder))
    """
    if path.is_dir():
        # Some file systems, and Windows, do not know this call for folders.
        with contextlib.suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, target: Path, replace_files: bool) -> None:
    """Put what was written under a temporary name on the disk, and give it its own name in one step.

    Args:
        partial: The file, or the folder of a sharded checkpoint.
        target: Its name, in the same folder; a file of that name is replaced.
        replace_files: Whether a folder of that name keeps its place while its files are replaced one by one, because
            it is in use; else it is removed first.

    Raises:
        OSError: If that fails; ``target`` is then as it was, or not there.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mmvim.engine.durable import publish
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     partial = Path(folder, 'a.partial')
        ...     _ = partial.write_text('text')
        ...     publish(partial, Path(folder, 'a'), replace_files=False)
        ...     [path.name for path in Path(folder).iterdir()]
        ['a']
    """
    if partial.is_dir():
        files = [path for path in partial.rglob('*') if path.is_file()]
        for path in files:
            flush(path)
        flush(partial)
        if target.is_dir() and replace_files:
            for path in files:
                os.replace(path, target / path.relative_to(partial))
            shutil.rmtree(partial)
            flush(target)
        else:
            discard(target)
            os.replace(partial, target)
    else:
        flush(partial)
        os.replace(partial, target)
    flush(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all.

    Args:
        path: The file; its folder must exist.
        text: Its content.

    Raises:
        OSError: If it cannot be written; it is then as it was.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mmvim.engine.durable import write_text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder, 'note'), 'text')
        ...     Path(folder, 'note').read_text()
        'text'
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_text(text)
        publish(partial, path, replace_files=False)
    except BaseException:
        discard(partial)
        raise


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there.

    Args:
        path: The file or folder.

    Examples:
        >>> from pathlib import Path
        >>> from mmvim.engine.durable import discard
        >>> discard(Path('no such file'))
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
