"""Memory that the operators do not initialise is NaN in all of these tests; and the emulator of compiled kernels.

Where Triton interprets its kernels, it does so in less time.
"""

import pytest
from hastened import hasten

from mmvim.ops.triton_host.device import installed, interpreting

if installed() and interpreting():
    from triton.runtime import interpreter

    hasten(interpreter)


@pytest.fixture(autouse=True)
def _poisoned(poisoned_memory):
    """A module that wants none overrides the root's fixture."""


@pytest.fixture(scope='session')
def compiled(tmp_path_factory):
    """A folder for what the emulator's tests compile."""
    return tmp_path_factory.mktemp('ptx')


@pytest.fixture
def emulate(compiled):
    """Start the emulator (``ptx.driver.emulate``) for an architecture, with races looked for."""
    from ptx.driver import emulate

    return lambda arch, **options: emulate(arch, **{'races': True, 'folder': compiled, **options})
