"""Which backends there are, and which one a call uses."""

import os
from collections.abc import Callable

from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments

ENV = 'MMVIM_SCAN_BACKEND'

Run = Callable[[ScanArguments], tuple[Tensor, Tensor]]
_BACKENDS: dict[str, tuple[Run, Callable[[], tuple[bool, str]]]] = {}


def register_backend(name: str, run: Run, available: Callable[[], tuple[bool, str]]) -> None:
    """Make a backend known.

    Args:
        name: What `backend=` and the environment variable call it.
        run: Takes the checked arguments; returns the output and the last state.
        available: Says whether it can run on this machine, and why (not).
    """
    _BACKENDS[name] = run, available


def backends() -> dict[str, tuple[bool, str]]:
    """Every backend's name, whether it can run on this machine, and why (not)."""
    return {name: available() for name, (_, available) in _BACKENDS.items()}


def choose(backend: str | None) -> Run:
    """The backend to run: the argument, else the environment variable, else the fastest.

    Raises:
        ValueError: If the name is unknown or that backend cannot run here.
    """
    source = 'backend'
    if backend in (None, 'auto'):
        backend, source = os.environ.get(ENV) or 'auto', f'environment variable {ENV}'
    if backend == 'auto':
        backend = 'torch'
    if backend not in _BACKENDS:
        raise ValueError(f"{source} = {backend!r} is no backend of the selective scan; available: "
                         f"{', '.join(repr(name) for name in ('auto', *_BACKENDS))}")
    run, available = _BACKENDS[backend]
    usable, reason = available()
    if not usable:
        raise ValueError(f'backend {backend!r} of the selective scan cannot run here: {reason}')
    return run
