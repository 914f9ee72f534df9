"""Does Triton really run here? One tiny launch tells, before the first call in a process that would rely on it.

That Triton can be imported says little. It compiles a part of itself with the C compiler and Python's headers, writes
to a cache folder, loads the driver's library and has to know the GPU; each of these may be missing. Then an op falls
back to 'torch' with one warning, and a call that names 'triton' raises an error with the reason.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import warnings

import torch
from torch.utils._python_dispatch import _disable_current_modes

from mmvim.ops.triton_host.launch import Launch

OLDEST = (3, 3, 0)  # the first whose kernels can hold tuples
# Who brings the module `triton`: the first is NVIDIA's and AMD's, the others builds for other systems.
_DISTRIBUTIONS = ('triton', 'pytorch-triton-rocm', 'pytorch-triton-xpu', 'pytorch-triton', 'triton-windows')


@functools.cache
def version_problem() -> str | None:
    """Return what is wrong with the version of Triton, with the remedy, or None; do not import it.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host import probe
        >>> with mock.patch.object(probe, 'installed_version', lambda: '3.2.0'):
        ...     probe.version_problem.__wrapped__()[:23]  # past the cache
        'Triton 3.2.0 is too old'
    """
    version = installed_version()
    numbers = tuple(map(int, re.findall(r'\d+', version)[:3])) if version else OLDEST
    if numbers >= OLDEST:
        return None
    oldest = '.'.join(map(str, OLDEST))
    return f'Triton {version} is too old, its compiler does not know what the kernels use: install {oldest} or newer'


def installed_version() -> str:
    """Return the version of Triton, such as '3.7.1'; an empty text where no package says so.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host.probe import installed_version
        >>> with mock.patch('importlib.metadata.version', lambda name: f'{name} 3.7.1'):
        ...     installed_version()
        'triton 3.7.1'
    """
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ''


def launch_problem(device_type: str) -> str | None:
    """Return what prevents a launch on the current device of a type, or None; try it once a process and device.

    Where there is no such device at all, there is nothing to try: tensors without memory pass, as in an export. In a
    CUDA graph's capture, which cannot be interrupted, nothing is tried either.

    Args:
        device_type: 'cuda' or 'xpu'.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.ops.triton_host import probe
        >>> with mock.patch.object(probe, '_any_device', lambda device_type: False):
        ...     print(probe.launch_problem('cuda'))
        None
    """
    devices = getattr(torch, device_type)
    if not _any_device(device_type):
        return None
    if device_type == 'cuda' and torch.cuda.is_current_stream_capturing():
        return None
    return _launch(device_type, devices.current_device())


@functools.cache
def _any_device(device_type: str) -> bool:
    return getattr(torch, device_type).is_available()


@functools.cache
def _launch(device_type: str, index: int) -> str | None:
    """Add one to a number on a device."""
    try:
        from mmvim.ops.triton_host.kernels import add_one

        with _disable_current_modes():  # a tracer's tensors have no memory
            number = torch.zeros(1, device=f'{device_type}:{index}' if isinstance(index, int) else device_type)
            Launch(add_one, 1, {'number_ptr': number}).run()
            value = number.item()
    except Exception as error:  # whatever it is, the ops run without Triton, and the user is told
        return f'Triton {installed_version()} cannot launch a kernel on {device_type}:{index}: {_first_line(error)}'
    return None if value == 1 else f'a kernel that adds 1 to 0 gave {value} on {device_type}:{index}'


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f'{type(error).__name__}: {text[0]}' if text else type(error).__name__


@functools.cache
def warn_once(reason: str) -> None:
    """Warn that the ops run without Triton, once a process for each reason."""
    warnings.warn(
        f"the Triton kernels cannot be used, the slower backend 'torch' runs instead: {reason}. "
        '`mmvim doctor` says what to do; MMVIM_SCAN_BACKEND=torch chooses it without this warning.',
        RuntimeWarning,
        stacklevel=4,
    )
