"""How what the backward kernels leave becomes the gradients of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments


class Gradient(NamedTuple):
    """What the kernels leave of an input's gradient, and how it becomes the gradient.

    Attributes:
        part: What they leave.
        axes: Over which it is summed, always in one order.
        view: Brings the sum into the axes of the input.
        dtype: That of the input.
    """

    part: Tensor
    axes: tuple[int, ...]
    view: Callable[[Tensor], Tensor]
    dtype: torch.dtype

    def finish(self, part: Tensor) -> Tensor:
        """Return the gradient, given the filled part."""
        found = self.view(part.sum(self.axes) if self.axes else part)
        return found if found.dtype == self.dtype else found.to(self.dtype)


def gradients_of(args: ScanArguments, parts: dict[str, Tensor]) -> dict[str, Gradient]:
    """Return what becomes of the parts, by input."""
    found = {}

    def add(name: str, key: str, axes: tuple[int, ...], view: Callable[[Tensor], Tensor]) -> None:
        if key in parts:
            found[name] = Gradient(parts[key], axes, view, getattr(args, name).dtype)

    def shared(name: str, axis: int) -> bool:
        return getattr(args, name).shape[axis] == 1 and args.num_paths > 1

    for name in ('u', 'delta'):
        add(name, f'd{name}', (), _swap_last)  # (b, 1|K, L, D) to (b, 1|K, D, L)
    for name in ('B', 'C'):  # (b, 1|K, G, L, N) to (b, 1|K, G, N, L)
        if shared(name, 1):
            add(name, f'd{name}', (1,), _swap_last_of_shared)
        else:
            add(name, f'd{name}', (), _swap_last)
    if shared('A', 0):  # (b, K, segments, N, D) to (1|K, D, N)
        add('A', 'dA', (0, 1, 2), _states_of_shared)
    else:
        add('A', 'dA', (0, 2), _swap_last)
    for name, key in (('D', 'dD'), ('delta_bias', 'dbias')):  # (b, K, segments, D) to (1|K, D)
        if key not in parts:
            continue
        if shared(name, 0):
            add(name, key, (0, 1, 2), _vector_of_shared)
        else:
            add(name, key, (0, 2), _itself)
    add('z', 'dz', (), _gate)  # (b, 1, L, D) to (b, D, L)
    add('initial_state', 'dinitial', (), _swap_last)  # (b, K, N, D) to (b, K, D, N)
    return found


def _swap_last(x: Tensor) -> Tensor:
    return x.transpose(-1, -2)


def _swap_last_of_shared(x: Tensor) -> Tensor:
    return x.unsqueeze(1).transpose(-1, -2)


def _states_of_shared(x: Tensor) -> Tensor:
    return x.unsqueeze(0).transpose(-1, -2)


def _vector_of_shared(x: Tensor) -> Tensor:
    return x.unsqueeze(0)


def _itself(x: Tensor) -> Tensor:
    return x


def _gate(x: Tensor) -> Tensor:
    return x.squeeze(1).transpose(-1, -2)
