"""Which backends there are, and which one a call uses."""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ENV = 'MMVIM_SCAN_BACKEND'

Run = Callable[..., tuple[Tensor, Tensor]]


class Backend(NamedTuple):
    """See :func:`register_backend`."""

    run: Run
    available: Callable[[], tuple[bool, str]]
    serves: Callable[[str], bool]
    prepare: Callable[[], str]


_BACKENDS: dict[str, Backend] = {}


def register_backend(
    name: str,
    run: Run,
    available: Callable[[], tuple[bool, str]],
    serves: Callable[[str], bool] = lambda device_type: False,
    prepare: Callable[[], str] = lambda: '',
) -> None:
    """Make a backend known.

    Args:
        name: What `backend=` and the environment variable call it.
        run: Takes the checked arguments; returns the output and the last state.
        available: Says whether it can run on this machine, and why (not).
        serves: Whether 'auto' takes it for tensors on devices of a type ('cpu', 'cuda'); of several, that registered
            first. Asked only for calls that name no backend. Defaults to never.
        prepare: Called before a run that names the backend; returns what prevents it, or an empty text. Defaults to
            nothing.
    """
    _BACKENDS[name] = Backend(run, available, serves, prepare)


def backends() -> dict[str, tuple[bool, str]]:
    """Every backend's name, whether it can run on this machine, and why (not)."""
    return {name: backend.available() for name, backend in _BACKENDS.items()}


def choose(backend: str | None, device_type: str) -> Run:
    """The backend to run: the argument, else the environment variable, else the fastest for the device.

    Raises:
        ValueError: If the name is unknown or that backend cannot run here.
    """
    return _BACKENDS[resolve(backend, device_type)].run


@torch.compiler.assume_constant_result
def resolve(backend: str | None, device_type: str) -> str:
    """The name of the backend that :func:`choose` takes; a constant of a compiled graph."""
    source = 'backend'
    if backend in (None, 'auto'):
        backend, source = os.environ.get(ENV) or 'auto', f'environment variable {ENV}'
    if backend == 'auto':
        return next((name for name, found in _BACKENDS.items() if found.serves(device_type)), 'torch')
    if backend not in _BACKENDS:
        raise ValueError(
            f'{source} = {backend!r} is no backend of the selective scan; available: '
            f'{", ".join(repr(name) for name in ("auto", *_BACKENDS))}'
        )
    reason = _BACKENDS[backend].prepare()
    if reason:
        raise ValueError(f'backend {backend!r} of the selective scan cannot run here: {reason}')
    return backend
