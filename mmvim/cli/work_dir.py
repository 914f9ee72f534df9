"""The checkpoints in a work dir: the last one, and the last one that can be resumed."""

import os
import re
from pathlib import Path

from mmvim import checkpoints
from mmvim.cli.errors import ENVIRONMENT, UserError

# What a checkpoint has that can be resumed.
RESUMABLE = ('meta', 'message_hub', 'optimizer')


def last_checkpoint(work_dir: str) -> str | None:
    """Return the checkpoint that the file ``last_checkpoint`` of a work dir names, even if the work dir was moved.

    Args:
        work_dir: The work dir.

    Returns:
        Its path; None if the work dir has no such file.

    Raises:
        UserError: If the checkpoint itself is gone; the message names the last one that can be resumed.

    Examples:
        >>> import tempfile
        >>> from mmvim.cli.work_dir import last_checkpoint
        >>> with tempfile.TemporaryDirectory() as work_dir:
        ...     print(last_checkpoint(work_dir))
        None
    """
    note = Path(work_dir) / 'last_checkpoint'
    if not note.is_file():
        return None
    named = note.read_text().strip()
    beside = Path(work_dir) / Path(named).name
    if named and beside.exists():  # a folder, if it is sharded
        return str(beside)
    if '://' in named or (named and os.path.exists(named)):
        return named
    other = loadable_beside(str(beside))
    raise UserError(
        f'{note} names {named}, which does not exist' if named else f'{note} is empty',
        f'the last one there that can be resumed is {other}: --resume {other}'
        if other
        else f'give the checkpoint with --resume PATH, or remove {note} to start anew',
        ENVIRONMENT,
    )


def loadable_beside(path: str) -> str | None:
    """Return the checkpoint of the highest number in a folder that can be resumed.

    Args:
        path: A checkpoint in that folder, which is left out.

    Returns:
        Its path; None if there is none.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from mmvim.cli.work_dir import loadable_beside
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({'meta': {}, 'message_hub': {}, 'optimizer': {}}, Path(folder, 'iter_2.pth'))
        ...     _ = Path(folder, 'iter_4.pth').write_bytes(b'')
        ...     Path(loadable_beside(Path(folder, 'iter_6.pth'))).name
        'iter_2.pth'
    """
    own = Path(path)

    def number(file: Path) -> int:
        digits = re.findall(r'\d+', file.stem)
        return int(digits[-1]) if digits else -1

    for file in sorted(own.parent.glob('*.pth'), key=number, reverse=True):
        if file.name == own.name or not file.is_file():
            continue
        try:
            checkpoint = checkpoints.load_file(str(file))
            checkpoints.check_bytes(str(file))
        except checkpoints.CheckpointError:
            continue
        if all(key in checkpoint for key in RESUMABLE):
            return str(file)
    return None
