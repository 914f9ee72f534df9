"""Writing of a checkpoint, as a whole or not at all."""

import os
from pathlib import Path

import torch

from mmvim.checkpoints.errors import CheckpointError


def check_target(path: str) -> Path:
    """Check that a file can be written, before the work of making its content begins.

    Args:
        path: The file; its folder must exist.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        CheckpointError: If nothing can be written there.

    Examples:
        >>> import tempfile
        >>> from mmvim import checkpoints
        >>> checkpoints.check_target(f'{tempfile.gettempdir()}/vim.pth').name
        'vim.pth'
    """
    target = Path(path).expanduser()
    problem = None
    if not target.name or os.path.isdir(target):
        problem = 'is a folder' if path else 'is not a name'
    elif not os.path.isdir(target.parent):
        problem = f'cannot be written (there is no folder {target.parent})'
    elif not os.access(target.parent, os.W_OK):
        problem = f'cannot be written (no permission for {target.parent})'
    if problem:
        raise CheckpointError(f'{path or repr(path)} {problem}', 'give another path')
    return target


def save_file(content: dict, path: str) -> None:
    """Write a checkpoint as a whole or not at all; equal contents give equal bytes.

    Args:
        content: What to write.
        path: The file; its folder must exist.

    Raises:
        CheckpointError: If it cannot be written.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints.save_file({'state_dict': {'norm.weight': torch.ones(4)}}, f'{folder}/vim.pth')
        ...     list(checkpoints.load_file(f'{folder}/vim.pth'))
        ['state_dict']
    """
    target = check_target(path)
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        # Through a stream: given a path, PyTorch writes the file's name into the archive.
        with open(part, 'wb') as stream:
            torch.save(content, stream)
        part.replace(target)
    except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError if the disk is full
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:80]
        raise CheckpointError(f'{path} cannot be written ({reason})', 'make room or give another path') from error
    finally:
        part.unlink(missing_ok=True)
