"""Memory that the operators do not initialise is NaN in all of these tests; and the emulator of compiled kernels.

Where Triton interprets its kernels, it does so in less time.
"""

import pytest
from hastened import hasten

from mmvim.ops.selective_scan.triton import cut, plans
from mmvim.ops.triton_host.device import installed, interpreting

if installed() and interpreting():
    from triton.runtime import interpreter

    hasten(interpreter)


@pytest.fixture(autouse=True)
def _poisoned(poisoned_memory):
    """A module that wants none overrides the root's fixture."""


@pytest.fixture(autouse=True)
def no_plans():
    """Make the plans of launches anew: what a test changes about them is not to reach another one."""
    plans.clear()
    yield
    plans.clear()


@pytest.fixture
def widest(monkeypatch):
    """Let blocks be as wide as the table says, and paths one segment; no choice."""
    monkeypatch.setattr(cut, 'choose', lambda kernel, work, widest, gpu: cut.Cut(widest, 1, work.steps, 0))


@pytest.fixture
def many_segments(monkeypatch):
    """Cut each path into as many segments as it has chunks; a list of the cuts, as they are chosen."""
    chosen = []

    def choose(kernel, work, widest, gpu):
        chosen.append(cut.Cut(widest, *cut.cuts_of(work.steps)[-1], 0))
        return chosen[-1]

    monkeypatch.setattr(cut, 'choose', choose)
    return chosen


@pytest.fixture(scope='session')
def compiled(tmp_path_factory):
    """A folder for what the emulator's tests compile."""
    return tmp_path_factory.mktemp('ptx')


@pytest.fixture
def emulate(compiled):
    """Start the emulator (``ptx.driver.emulate``) for an architecture, with races looked for."""
    from ptx.driver import emulate

    return lambda arch, **options: emulate(arch, **{'races': True, 'folder': compiled, **options})
