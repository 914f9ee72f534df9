"""Errors that a tool reports as one line and an exit status, without a traceback.

Only what the user can fix is reported this way. Everything else is a bug and keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

DEBUG_VARIABLE = 'MMVIM_DEBUG'

# Exit statuses: the command line is wrong (argparse's own status), the machine lacks something the command needs, or
# the user pressed Ctrl-C (a shell's 128 + SIGINT).
USAGE = 2
ENVIRONMENT = 1
INTERRUPTED = 130


class UserError(Exception):
    """An error that the user can fix.

    Args:
        problem: What is wrong, naming the argument or path and its value.
        remedy: What to do about it.
        status: Exit status of the tool. Defaults to 2, a wrong command line.
        everywhere: Whether any process of a distributed run may have it alone, and so must tell it. Defaults to False:
            all have it, and the main process tells.

    Examples:
        >>> from mmvim.cli import UserError
        >>> error = UserError('config vim.py does not exist', 'configs holds vim_t.py')
        >>> print(error, error.status)
        config vim.py does not exist; configs holds vim_t.py 2
    """

    def __init__(self, problem: str, remedy: str, status: int = USAGE, everywhere: bool = False) -> None:
        super().__init__(_one_line(f'{problem}; {remedy}'))
        self.status, self.everywhere = status, everywhere


def _one_line(text: str) -> str:
    return ' '.join(text.split())


def is_main_process() -> bool:
    """Check whether this process prints on behalf of a distributed run (known before the process group exists).

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli.errors import is_main_process
        >>> with mock.patch.dict(os.environ, RANK='1'):
        ...     is_main_process()
        False
    """
    ranks = (os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
    return next((rank for rank in ranks if rank is not None), '0') == '0'


def warn(message: str) -> None:
    """Print one ``warning:`` line to stderr, from the main process only.

    Args:
        message: The warning; its line breaks become blanks.

    Examples:
        >>> import contextlib, sys
        >>> from mmvim.cli import warn
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     warn('no GPU: training in fp32 instead')
        warning: no GPU: training in fp32 instead
    """
    if is_main_process():
        print(f'warning: {_one_line(message)}', file=sys.stderr)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line instead of the usage text.

    Examples:
        >>> from mmvim.cli import OneLineParser
        >>> parser = OneLineParser(prog='train.py')
        >>> _ = parser.add_argument('--epochs', type=int)
        >>> try:  # prints "error: argument --epochs: invalid int value: 'x'; see train.py --help" to stderr
        ...     parser.parse_args(['--epochs', 'x'])
        ... except SystemExit as error:
        ...     print(error.code)
        2
    """

    def error(self, message: str) -> NoReturn:
        """Print the message on one line and exit.

        Args:
            message: What is wrong.

        Raises:
            SystemExit: With status 2.
        """
        if is_main_process():
            print(f'error: {message}; see {self.prog} --help', file=sys.stderr)
        raise SystemExit(USAGE)


def describe(error: BaseException, limit: int = 300) -> str:
    """Return the kind and the first words of an exception, on one line.

    Args:
        error: The exception.
        limit: Longest text to keep, in characters. Defaults to 300.

    Examples:
        >>> from mmvim.cli.errors import describe
        >>> describe(ValueError('a text of some length'), limit=12)
        'ValueError: a text of...'
    """
    text = _one_line(str(error))
    text = text if len(text) <= limit else text[: limit - 3] + '...'
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def run_tool(main: Callable[[], None]) -> None:
    """Run ``main``, and exit with one ``error:`` line if it raises :class:`UserError` or the user presses Ctrl-C.

    With ``MMVIM_DEBUG=1`` in the environment the exception passes through, and its traceback is shown.

    Args:
        main: The tool.

    Raises:
        SystemExit: With the error's status; 130 after Ctrl-C.

    Examples:
        >>> from mmvim.cli import UserError, run_tool
        >>> def main():
        ...     raise UserError('data/ade does not exist', 'download it')
        >>> try:  # prints "error: data/ade does not exist; download it" to stderr
        ...     run_tool(main)
        ... except SystemExit as error:
        ...     print(error.code)
        2
    """
    from mmvim.cli.noise import silence_warnings

    silence_warnings()
    try:
        main()
    except UserError as error:
        if os.environ.get(DEBUG_VARIABLE, '0') not in ('', '0'):
            raise
        if is_main_process():
            print(f'error: {error}', file=sys.stderr)
        elif error.everywhere:
            print(f'error: process {os.environ.get("RANK", "?")}: {error}', file=sys.stderr)
        raise SystemExit(error.status) from None
    except KeyboardInterrupt:
        if os.environ.get(DEBUG_VARIABLE, '0') not in ('', '0'):
            raise
        if is_main_process():
            print('error: interrupted; run it again', file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # whoever read the output has seen enough, as in ``mmvim models | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries to flush it at exit
        raise SystemExit(1) from None
