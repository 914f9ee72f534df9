"""The one kind of error that reading and fitting a checkpoint raises."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class CheckpointError(ValueError):
    """Error for a checkpoint that cannot be used; nothing of it has been loaded.

    Args:
        problem: What is wrong, with the file's name and what was found in it.
        remedy: What to do about it.
        misfit: The file is sound, but the wrong one for this use. Defaults to False.

    Examples:
        >>> from mmvim.checkpoints import CheckpointError
        >>> error = CheckpointError('vim.pth is a web page', 'download the file itself')
        >>> print(error)
        vim.pth is a web page; download the file itself
        >>> error.misfit
        False
    """

    def __init__(self, problem: str, remedy: str, misfit: bool = False) -> None:
        super().__init__(f'{problem}; {remedy}')
        self.problem, self.remedy, self.misfit = problem, remedy, misfit


def some(names: Iterable[object], limit: int = 3) -> str:
    """Name the first few of a list and say how many more there are, as in 'a, b, c and 4 more'.

    Args:
        names: The names.
        limit: How many to write out. Defaults to 3.
    """
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(str(name) for name in names[:limit]) + more


@contextmanager
def as_damage(name: str) -> Iterator[None]:
    """Turn whatever a reader of a format raises into a :class:`CheckpointError`; those that are one pass.

    The readers (``zipfile``, ``torch.load``, safetensors, ``json``) answer damaged bytes with whatever their first
    wrong step happens to raise: UnicodeDecodeError, NotImplementedError, BadZipFile, KeyError, RecursionError, others.

    Args:
        name: What to call the file in messages.

    Raises:
        CheckpointError: In place of any other Exception, which becomes its cause.

    Examples:
        >>> from mmvim.checkpoints.errors import CheckpointError, as_damage
        >>> try:
        ...     with as_damage('vim.pth'):
        ...         bytes([255]).decode()
        ... except CheckpointError as error:
        ...     print(error.problem[:40], '...;', error.remedy)
        vim.pth is damaged (UnicodeDecodeError:  ...; copy or download it again
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        words = ' '.join(str(error).split())[:120]
        raise CheckpointError(
            f'{name} is damaged ({type(error).__name__}{f": {words}" if words else ""})', 'copy or download it again'
        ) from error
