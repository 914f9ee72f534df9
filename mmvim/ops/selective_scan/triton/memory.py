"""The memory order that the kernels read, and the arguments that tell them of it."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_RECORD = threading.local()


class Note(NamedTuple):
    """How a tensor came to be while a pass was prepared.

    Attributes:
        result: The tensor.
        source: What it was copied from; None for memory that is to be filled.
        copy: What makes such a copy, or changes the source in place.
        clear: Whether the memory is zero to begin with.
    """

    result: Tensor
    source: Tensor | None = None
    copy: Callable[[Tensor], object] | None = None
    clear: bool = False


@contextlib.contextmanager
def recording() -> Iterator[list[Note]]:
    """Note what the functions of this module make in this thread while a block runs, for ``plans.py``.

    Yields:
        The notes, in order.
    """
    _RECORD.notes = notes = []
    try:
        yield notes
    finally:
        _RECORD.notes = None


def _note(*note: Any) -> None:
    notes = getattr(_RECORD, 'notes', None)
    if notes is not None:
        notes.append(Note(*note))


def _copied(x: Tensor, copy: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a copy, or what shares the tensor's memory if that lies as wanted."""
    result = copy(x)
    if not shares_memory(result, x):
        _note(result, x, copy)
    return result


def shares_memory(x: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are views of one."""
    return x.untyped_storage()._cdata == other.untyped_storage()._cdata


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` (..., D, L) with channels (or states) contiguous, as projections leave it: itself, or a copy."""
    return x if x.stride(-2) == 1 or x.shape[-2] == 1 else _copied(x, _transposed_copy)


def _transposed_copy(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def new_tensor(like: Tensor, shape: Sequence[int], clear: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """Return a dense tensor to be filled; zeros to begin with where ``clear`` says that no step may reach a part."""
    x = like.new_zeros(shape, dtype=dtype) if clear else like.new_empty(shape, dtype=dtype)
    _note(x, None, None, clear)
    return x


def clear_end(x: Tensor, start: int) -> None:
    """Set a tensor of one axis to zero from a place on."""
    _note(x, x, functools.partial(_clear_end, start=start))
    _clear_end(x, start)


def _clear_end(x: Tensor, start: int) -> None:
    x[start:].zero_()


def contiguous_or_none(x: Tensor | None) -> Tensor | None:
    """Return a vector for each path, (1|K, D), as the kernels read it."""
    return None if x is None else _copied(x, torch.Tensor.contiguous)


def states_first(state: Tensor | None) -> Tensor | None:
    """Return states (..., D, N) as the kernels read them: (..., N, D), dense."""
    return None if state is None else _copied(state, _states_first)


def _states_first(state: Tensor) -> Tensor:
    return state.transpose(-1, -2).contiguous()


def block_rates(A: Tensor, groups: int, block_d: int) -> Tensor:
    """Return the rates of decay as the backward kernel reads them: A (1|K, D, N) times log2(e), by blocks of channels.

    Args:
        A: Any strides.
        groups: Groups of channels, none of which shares a block with another.
        block_d: Channels of a block.

    Returns:
        (1|K, blocks, N, block_d), dense; zero for channels that a group has not.
    """
    return _copied(A, functools.partial(_block_rates, groups=groups, block_d=block_d))


def _block_rates(A: Tensor, groups: int, block_d: int) -> Tensor:
    group_dim = A.shape[1] // groups
    per_group = -(-group_dim // block_d)
    missing = per_group * block_d - group_dim
    if missing:
        A = F.pad(A.unflatten(1, (groups, group_dim)), (0, 0, 0, missing)).flatten(1, 2)
    blocked = A.unflatten(1, (groups * per_group, block_d)).transpose(-1, -2)
    return torch.mul(blocked, math.log2(math.e), out=A.new_empty(blocked.shape))


def pass_tensor(name: str, x: Tensor | None, axes: str, shape: str) -> dict[str, Any]:
    """Return the kernels' arguments for a tensor: its pointer, and its strides over some axes.

    Args:
        name: The kernels' name of the tensor; 'u' gives ``u_ptr``, ``u_b``, ...
        x: The tensor, or None, whose strides are 0.
        axes: Letters of the axes whose strides the kernels take. The stride of an axis of size 1 is 0, so that all its
            indices read the same.
        shape: Letters of all axes of ``x``, in their order.
    """
    arguments: dict[str, Any] = {f'{name}_ptr': x}
    for axis in axes:
        number = shape.index(axis)
        arguments[f'{name}_{axis}'] = 0 if x is None or x.shape[number] == 1 else x.stride(number)
    return arguments
