"""Questions about the device: can Triton run there, and what is it like?"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os

import torch

from mmvim.ops.triton_host import probe

DEVICES = ('cuda', 'xpu')


def installed() -> bool:
    """Check whether Triton can be imported, without importing it.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host.device import installed
        >>> with mock.patch('importlib.util.find_spec', lambda name: None):
        ...     installed()
        False
    """
    try:
        return importlib.util.find_spec('triton') is not None
    except ImportError:  # somebody's import hook says no
        return False


@torch.compiler.assume_constant_result
def interpreting() -> bool:
    """Check whether Triton interprets its kernels, on CPU tensors.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host.device import interpreting
        >>> with mock.patch.dict(os.environ, TRITON_INTERPRET='1'):
        ...     interpreting()
        True
    """
    return os.environ.get('TRITON_INTERPRET') == '1'


def device_guard(device: torch.device) -> contextlib.AbstractContextManager:
    """Make a device the current one while a block runs: Triton launches there, whatever device the tensors are on.

    Args:
        device: That of the tensors. Devices other than GPUs need no guard and get one that does nothing.

    Examples:
        >>> import torch
        >>> from mmvim.ops.triton_host.device import device_guard
        >>> with device_guard(torch.device('cpu')) as guarded:
        ...     print(guarded)
        None
    """
    if device.type in DEVICES:
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


def has_gpu(device_type: str) -> bool:
    """Check whether PyTorch finds a device of a type, one of ``DEVICES``.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host.device import has_gpu
        >>> with mock.patch('torch.cuda.is_available', lambda: False):
        ...     has_gpu('cuda')
        False
    """
    return getattr(torch, device_type).is_available()


def available() -> tuple[bool, str]:
    """Return whether Triton can run here, and why (not); import and launch nothing."""
    if not installed():
        return False, 'Triton is not installed: pip install triton'
    problem = probe.version_problem()
    if problem:
        return False, problem
    if interpreting():
        return True, 'Triton, interpreted on the CPU (TRITON_INTERPRET=1); slow'
    if not any(map(has_gpu, DEVICES)):
        return False, 'PyTorch finds no GPU'
    return True, 'Triton, GPUs'


def problem_on(device_type: str) -> str | None:
    """Return what prevents a run on the current device of a type of GPU, where Triton is installed, or None.

    The first call in a process launches a tiny kernel there.

    Args:
        device_type: One of ``DEVICES``.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host import probe
        >>> from mmvim.ops.triton_host.device import problem_on
        >>> with mock.patch.object(probe, 'version_problem', lambda: 'Triton 3.2.0 is too old'):
        ...     problem_on('cuda')
        'Triton 3.2.0 is too old'
    """
    return probe.version_problem() or (None if interpreting() else probe.launch_problem(device_type))


def default_for(device_type: str) -> bool:
    """Return True for GPUs on which Triton runs; warn once where it is installed, but cannot."""
    if device_type not in DEVICES or not installed():
        return False
    reason = problem_on(device_type)
    if reason:
        probe.warn_once(reason)
    return not reason


def why_not(device_type: str) -> str | None:
    """Return what prevents a run on tensors of a device type, or None."""
    usable, reason = available()
    if not usable:
        return reason
    if device_type in DEVICES:
        return problem_on(device_type)
    if not interpreting():
        return f"it cannot reach tensors on {device_type}: move them to a GPU, or pass backend='auto'"
    return None
