"""The console script ``mmvim``: ``mmvim COMMAND ...``, also as ``python -m mmvim COMMAND ...``."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from mmvim import __version__
from mmvim.cli.commands import COMMANDS
from mmvim.cli.errors import ENVIRONMENT, UserError, run_tool

_END = """
CONFIG is a file, or the name of a config that `mmvim models` lists. `mmvim COMMAND --help` has the options.
On N GPUs: torchrun --nproc_per_node=N -m mmvim train CONFIG --launcher pytorch"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        argv: The command and its arguments. Defaults to None, the command line.

    Raises:
        SystemExit: If the command fails.

    Examples:
        >>> from mmvim.cli.main import main
        >>> main(['--version'])  # doctest: +ELLIPSIS
        mmvim 0...
    """
    run_tool(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _dispatch(argv: list[str]) -> None:
    name, *arguments = argv or ['--help']
    if name in ('-h', '--help'):
        lines = (f'  {command:<10}{text}' for command, text in COMMANDS.items())
        print('usage: mmvim COMMAND ...\n', *lines, _END, sep='\n')
    elif name == '--version':
        print(f'mmvim {__version__}')
    elif name in COMMANDS:
        _import(name).main(arguments)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f'did you mean {close[0]}?' if close else f'it has {", ".join(COMMANDS)}'
        raise UserError(f'mmvim has no command {name!r}', hint)


def _import(name: str):
    try:
        return import_module(f'mmvim.cli.commands.{name}')
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing in ('', 'mmvim'):
            raise
        remedy = 'install what it needs: pip install "mmvim[seg]" or "mmvim[det]"'
        raise UserError(f'mmvim {name} needs {missing}, which is not installed', remedy, ENVIRONMENT) from error
