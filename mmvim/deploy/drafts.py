"""Files that stand at their place only when they are whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmvim.deploy.errors import DeployError


def check_target(file: str | os.PathLike, suffix: str) -> Path:
    """Check that a file can be written.

    Args:
        file: Its path.
        suffix: What its name must end in.

    Returns:
        Its path.

    Raises:
        DeployError: If it ends in something else, or its folder cannot be written to.

    Examples:
        >>> from mmvim.deploy.drafts import check_target
        >>> check_target('model.onnx', '.onnx').name
        'model.onnx'
    """
    target = Path(file)
    if target.suffix != suffix:
        raise DeployError(f'{target} does not end in {suffix}', 'give a name that does')
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise DeployError(
            f'{target} cannot be written: {target.parent} is no writable folder', 'make it, or name another'
        )
    return target


@contextlib.contextmanager
def replacing(target: str | os.PathLike) -> Iterator[Path]:
    """Yield the name of a new file beside a target, whose place it takes when the block ends without an error.

    Args:
        target: What is to be written. After an error it is as it was, and the new file is gone.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mmvim.deploy.drafts import replacing
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, 'a.txt')) as draft:
        ...         _ = draft.write_text('text')
        ...         draft.suffix, Path(folder, 'a.txt').exists()
        ...     [path.name for path in Path(folder).iterdir()]
        ('.txt', False)
        ['a.txt']
    """
    target = Path(target)
    handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f'.{target.stem}-', dir=target.parent)
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    try:
        yield Path(name)
        os.replace(name, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
