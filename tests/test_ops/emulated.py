"""Where the emulator of ``tests/ptx`` runs, and how much of it by default."""

import os

import pytest

from mmvim.ops.triton_host.device import installed, interpreting

EVERY = os.environ.get('MMVIM_TEST_EVERY_KERNEL') == '1'
ARCHITECTURES = (75, 80, 90, 100, 120)


def why_no_emulator() -> str:
    """Return what keeps the emulator from running here; '' for nothing."""
    if not installed() or interpreting():
        return 'Triton is not installed, or interprets'
    from ptx.driver import why_not

    return why_not()


NEEDS_EMULATOR = pytest.mark.skipif(bool(why_no_emulator()), reason=why_no_emulator())
