"""The memory order that the kernels read, and the arguments that tell them of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` (..., D, L) with channels (or states) contiguous, as projections leave it: itself, or a copy."""
    if x.stride(-2) == 1 or x.shape[-2] == 1:
        return x
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def new_tensor(like: Tensor, shape: Sequence[int], clear: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Return a dense tensor to be filled; zeros to begin with where ``clear`` says that no step may reach a part."""
    return like.new_zeros(shape, dtype=dtype) if clear else like.new_empty(shape, dtype=dtype)


def contiguous_or_none(x: Tensor | None) -> Tensor | None:
    """Return a vector for each path, (1|K, D), as the kernels read it."""
    return None if x is None else x.contiguous()


def states_first(state: Tensor | None) -> Tensor | None:
    """Return states (b, K, D, N) as the kernels read them: (b, K, N, D), dense."""
    return None if state is None else state.transpose(-1, -2).contiguous()


def block_rates(A: Tensor, groups: int, block_d: int) -> Tensor:
    """Return the rates of decay as the backward kernel reads them: A (1|K, D, N) times log2(e), by blocks of channels.

    Args:
        A: Any strides.
        groups: Groups of channels, none of which shares a block with another.
        block_d: Channels of a block.

    Returns:
        (1|K, blocks, N, block_d), dense; zero for channels that a group has not.
    """
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
