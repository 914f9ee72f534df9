"""Which backends an op has, which of them serves a call, and why another cannot: one mechanism for every op.

A backend is one implementation of an op: 'torch' (plain PyTorch, any device), 'native' (C++, CPUs), 'triton' (GPUs) or
'reference' (the definition). Each op registers its own with its :class:`Backends`. A call names one of them, or leaves
the choice to the environment variable ``MMVIM_SCAN_BACKEND`` or, where that is not set, to the device of its tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch

ENV = 'MMVIM_SCAN_BACKEND'
AUTO, PLAIN, REFERENCE = 'auto', 'torch', 'reference'


class Backend(NamedTuple):
    """One implementation of an op.

    Attributes:
        implementation: What runs; its form is the op's own.
        available: Say whether it can run on this machine, and why (not); must be quick, so it compiles nothing.
        default_for: Return True if it should be the default for a device type such as 'cpu' or 'cuda'. The first
            registered backend that returns True is used. Not called when a backend is named.
        why_not: Say what prevents a run on a device type, or return None. Called when the backend is named.
        can_run: Return whether it takes a call with these arguments; what it does not take goes to 'torch'.
    """

    implementation: Any
    available: Callable[[], tuple[bool, str]]
    default_for: Callable[[str], bool] = lambda device_type: False
    why_not: Callable[[str], str | None] = lambda device_type: None
    can_run: Callable[..., bool] = lambda *args: True


class Backends:
    """The backends of one op, by name.

    Args:
        op: What messages call the op, such as 'selective scan'.

    Examples:
        >>> ops = Backends('doubling')
        >>> ops.register('torch', Backend(lambda x: x + x, lambda: (True, 'any device')))
        >>> ops.select(None, 'cpu'), ops['torch'].implementation(2)
        ('torch', 4)
    """

    _ops: ClassVar[dict[str, Backends]] = {}

    def __init__(self, op: str) -> None:
        self.op = op
        self._found: dict[str, Backend] = {}
        self._ops[op] = self

    @classmethod
    def named(cls, op: str) -> Backends:
        """Return the backends of an op by the name that messages call it.

        Raises:
            KeyError: If no imported module registers such an op.
        """
        return cls._ops[op]

    def __getitem__(self, name: str) -> Backend:
        return self._found[name]

    def register(self, name: str, backend: Backend) -> None:
        """Make a backend known by a name; of several defaults for a device type, the first registered one serves."""
        self._found[name] = backend

    def available(self) -> dict[str, tuple[bool, str]]:
        """Return every backend's name with whether it can run on this machine, and why (not)."""
        return {name: backend.available() for name, backend in self._found.items()}

    def requested(self, backend: str | None) -> str:
        """Return the name that a call or the environment asks for, 'auto' if neither does or this op lacks it.

        Raises:
            ValueError: If no op has a backend of that name.
        """
        return _requested(self.op, backend)

    def select(self, backend: str | None, device_type: str, *args: Any) -> str:
        """Return the name of the backend that serves a call.

        Args:
            backend: A name, or None or 'auto' for the environment's or the device's choice.
            device_type: Where the tensors are, such as 'cpu' or 'cuda'.
            *args: The call's arguments, if they decide too; see :class:`Backend`.

        Raises:
            ValueError: If the name is unknown, or that backend cannot run here.
        """
        name = _select(self.op, backend, device_type)
        return name if not args or self._found[name].can_run(*args) else PLAIN

    def in_graph(self, backend: str | None) -> str:
        """Return what an operator is told of the backend: a name only if the call gave one, so that graphs can move."""
        return AUTO if backend in (None, AUTO) else self.requested(backend)

    def serving(self, name: str, device_type: str, *args: Any) -> Any:
        """Return the implementation for an operator that was told 'auto' or the name of a backend chosen before."""
        name = self.select(None, device_type) if name == AUTO else name
        return self._found[name if self._found[name].can_run(*args) else PLAIN].implementation


# Constants of a compiled graph, which cannot trace the questions that they ask.
@torch.compiler.assume_constant_result
def _requested(op: str, backend: str | None) -> str:
    name, source = backend, 'backend'
    if backend in (None, AUTO):
        name, source = os.environ.get(ENV) or AUTO, f'environment variable {ENV}'
    own = Backends.named(op)._found
    if name in own:
        return name
    if name == AUTO or any(name in other._found for other in Backends._ops.values()):
        return AUTO
    names = ', '.join(repr(name) for name in (AUTO, *own))
    raise ValueError(f'{source} = {name!r} is not a backend of the {op}; available: {names}')


@torch.compiler.assume_constant_result
def _select(op: str, backend: str | None, device_type: str) -> str:
    name, own = _requested(op, backend), Backends.named(op)._found
    if name == AUTO:
        return next((name for name, found in own.items() if found.default_for(device_type)), PLAIN)
    reason = own[name].why_not(device_type)
    if reason:
        raise ValueError(f'backend {name!r} of the {op} cannot run here: {reason}')
    return name
