"""How a tool tells the user that it cannot go on: one line and an exit status, no traceback.

Only what the user can put right is reported this way. Everything else is a bug and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable

DEBUG_VARIABLE = 'MMVIM_DEBUG'

# Exit statuses: the command line is wrong (as argparse has it), or the machine lacks something the command needs.
USAGE = 2
ENVIRONMENT = 1


class UserError(Exception):
    """Something the user can put right.

    Args:
        problem (str): What is wrong, naming the argument or path and its value.
        remedy (str): What to do about it.
        status (int): Exit status of the tool. Defaults to 2, a wrong command line.
    """

    def __init__(self, problem: str, remedy: str, status: int = USAGE) -> None:
        super().__init__(_one_line(f'{problem}; {remedy}'))
        self.status = status


def _one_line(text: str) -> str:
    return ' '.join(text.split())


def is_main_process() -> bool:
    """Whether this process speaks for all of a distributed run (known before the process group exists)."""
    ranks = (os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
    return next((rank for rank in ranks if rank is not None), '0') == '0'


def warn(message: str) -> None:
    """Print one ``warning:`` line to stderr, from the main process only."""
    if is_main_process():
        print(f'warning: {_one_line(message)}', file=sys.stderr)


def describe(error: BaseException, limit: int = 300) -> str:
    """The kind and the first words of an exception, on one line.

    Args:
        error (BaseException): The exception.
        limit (int): Longest text to keep, in characters. Defaults to 300.
    """
    text = _one_line(str(error))
    text = text if len(text) <= limit else text[: limit - 3] + '...'
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def run_tool(main: Callable[[], None]) -> None:
    """Run ``main`` and exit with one ``error:`` line where it raises :class:`UserError`.

    With ``MMVIM_DEBUG=1`` in the environment the traceback is shown as well.

    Args:
        main (Callable): The tool.

    Raises:
        SystemExit: With the error's status.
    """
    try:
        main()
    except UserError as error:
        if os.environ.get(DEBUG_VARIABLE, '0') not in ('', '0'):
            raise
        if is_main_process():
            print(f'error: {error}', file=sys.stderr)
        raise SystemExit(error.status) from None
