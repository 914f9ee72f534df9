"""Tensors that are larger than the memory: address space that takes none until it is written."""

import mmap
from math import prod

import torch
from torch import Tensor

_NO_RESERVE = getattr(mmap, 'MAP_NORESERVE', 0x4000)  # Python names it from 3.13 on; Linux has had this value all along


def sparse_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a dense tensor of zeros whose pages exist once they are written.

    Args:
        shape: As of any tensor; the product may be beyond what the machine has.
        dtype: Of the elements.
    """
    size = max(prod(shape) * dtype.itemsize, 1)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return torch.frombuffer(memory, dtype=torch.uint8)[: prod(shape) * dtype.itemsize].view(dtype).view(shape)
