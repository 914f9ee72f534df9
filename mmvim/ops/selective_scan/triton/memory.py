"""The memory order that the kernels read, and what a plan asks of a device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def channels_last(x: Tensor | None) -> Tensor | None:
    """`x` (..., D, L) with channels (or states) contiguous: itself, or a copy. Projections leave their outputs so."""
    if x is None or x.stride(-2) == 1 or x.shape[-2] == 1:
        return x
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def shared_stride(x: Tensor, axis: int) -> int:
    """The stride of an axis, 0 where the axis has size 1: all indices of it then read the same."""
    return 0 if x.shape[axis] == 1 else x.stride(axis)


@functools.cache
def architecture(device: torch.device) -> int:
    """Compute capability as a number, 90 for 9.0; 90 too where there is none to ask."""
    if device.type != 'cuda' or not torch.cuda.is_available() or torch.version.hip:
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device; an H200's 132 where there is none to ask."""
    if device.type != 'cuda' or not torch.cuda.is_available():
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count
