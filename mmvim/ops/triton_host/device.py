"""Questions about the device: can Triton run there, and what is it like?"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os

import torch
from torch import Tensor


def installed() -> bool:
    """Check whether Triton can be imported, without importing it.

    Examples:
        >>> from mmvim.ops.triton_host.device import installed
        >>> installed() in (True, False)
        True
    """
    try:
        return importlib.util.find_spec('triton') is not None
    except ImportError:  # somebody's import hook says no
        return False


_INSTALLED = installed()


@torch.compiler.assume_constant_result
def interpreting() -> bool:
    """Check whether Triton interprets its kernels, on CPU tensors.

    Examples:
        >>> import os
        >>> from mmvim.ops.triton_host.device import interpreting
        >>> interpreting() == (os.environ.get('TRITON_INTERPRET') == '1')
        True
    """
    return os.environ.get('TRITON_INTERPRET') == '1'


def on_triton(x: Tensor) -> bool:
    """Check whether Triton can reach a tensor: on a GPU, or anywhere if it interprets its kernels.

    Args:
        x: Any tensor.

    Examples:
        >>> import torch
        >>> from mmvim.ops.triton_host.device import installed, interpreting, on_triton
        >>> on_triton(torch.zeros(1)) == (installed() and interpreting())
        True
    """
    return _INSTALLED and (x.device.type in ('cuda', 'xpu') or interpreting())


def device_guard(device: torch.device) -> contextlib.AbstractContextManager:
    """Make a device the current one while a block runs: Triton launches there, whatever device the tensors are on.

    Args:
        device: That of the tensors. Devices other than GPUs need no guard and get one that does nothing.

    Examples:
        >>> import torch
        >>> from mmvim.ops.triton_host.device import device_guard
        >>> with device_guard(torch.device('cpu')):
        ...     pass
    """
    if device.type in ('cuda', 'xpu'):
        return getattr(torch, device.type).device(device)
    return contextlib.nullcontext()


@functools.cache
def architecture(device: torch.device) -> int:
    """Return the compute capability as a number, 90 for 9.0.

    Args:
        device: Any device; one that is not an NVIDIA GPU gets 90, too.

    Examples:
        >>> import torch
        >>> from mmvim.ops.triton_host.device import architecture
        >>> architecture(torch.device('cpu'))
        90
    """
    if device.type != 'cuda' or not torch.cuda.is_available() or torch.version.hip:
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def processors(device: torch.device) -> int:
    """Return the number of streaming multiprocessors.

    Args:
        device: Any device; one that CUDA does not know gets the 132 of an H200.

    Examples:
        >>> import torch
        >>> from mmvim.ops.triton_host.device import processors
        >>> processors(torch.device('cpu'))
        132
    """
    if device.type != 'cuda' or not torch.cuda.is_available():
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count
