"""Run a script or a module with the names in place; ``python -m mmvim.compat.mamba_ssm`` calls it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from mmvim.compat.install import install
from mmvim.compat.names import served

USAGE = """usage: python -m mmvim.compat.mamba_ssm SCRIPT [ARGUMENT ...]
       python -m mmvim.compat.mamba_ssm -m MODULE [ARGUMENT ...]

Run a script of another project with these names served by mmvim, unless their originals are installed:
"""


def main(arguments: Sequence[str]) -> None:
    """Run what the arguments name; without any, or for --help, say what is served.

    Args:
        arguments: A script or ``-m MODULE``, and its own arguments.

    Raises:
        SystemExit: With a line that names the mistake, if there is no such script or nothing follows ``-m``.
    """
    if not arguments or arguments[0] in ('-h', '--help'):
        print(USAGE + '\n'.join(f'  {module}: {", ".join(names)}' for module, names in served().items()))
        return
    if arguments[0] == '-m':
        if len(arguments) < 2:
            sys.exit('error: -m needs the name of a module')
        install()
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
        return
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(f'error: {script} is not a file; give the path of a Python script, or -m MODULE')
    if not sys.flags.safe_path:
        sys.path[0] = str(script.resolve().parent)  # as Python does for a script; an original may stand beside it
    install()
    sys.argv = list(arguments)
    runpy.run_path(str(script), run_name='__main__')
