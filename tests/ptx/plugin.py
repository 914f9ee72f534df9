"""A plugin for pytest: all of a session's tests run with Triton's launches emulated.

    PYTHONPATH=tests PTX_ARCH=90 python -m pytest -p ptx.plugin tests/test_ops/interpreted_triton.py

``PTX_ARCH`` is the compute capability, 90 by default; ``PTX_FOLDER`` a folder for what is compiled, a temporary one by
default. Races are looked for. At the end the number of launches is reported, so that none shows.
"""

import os
import tempfile
from pathlib import Path

import pytest

from ptx.driver import emulate

_STATE = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    temporary = tempfile.TemporaryDirectory()
    folder = Path(os.environ.get('PTX_FOLDER') or temporary.name)
    context = emulate(int(os.environ.get('PTX_ARCH', '90')), races=True, folder=folder)
    config.stash[_STATE] = (context, context.__enter__(), temporary)


def pytest_unconfigure(config: pytest.Config) -> None:
    context, _, temporary = config.stash[_STATE]
    context.__exit__(None, None, None)
    temporary.cleanup()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    emulation = config.stash[_STATE][1]
    terminalreporter.write_line(
        f'emulated {len(emulation.launches)} launches on sm_{emulation.arch}, {len(emulation.opcodes)} opcodes'
    )
