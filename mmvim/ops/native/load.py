"""Load the C++ library for every op that has a part in it, and say why where it cannot be used."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

from mmvim.ops.native.build import load_library


def why_not(device_type: str = 'cpu') -> str | None:
    """Load the library, compiling it first where that must be; return what went wrong, or None.

    The device type does not matter: tensors elsewhere than on a CPU go to 'torch'.
    """
    return load_library()


@functools.cache
def library() -> Any:
    """Return the namespace of the library's operators.

    Raises:
        RuntimeError: If the library cannot be used.
    """
    reason = why_not()
    if reason:
        raise RuntimeError(f"mmvim's C++ library cannot be used: {reason}")
    return torch.ops.mmvim_native


def default_for(device_type: str) -> bool:
    """Return True for CPUs; warn once where the library would be the default, but cannot be used."""
    if device_type != 'cpu':
        return False
    reason = why_not()
    if reason:
        warn_once(reason)
    return not reason


@functools.cache
def warn_once(reason: str) -> None:
    """Warn, once a process for each reason."""
    warnings.warn(
        f"mmvim's C++ library cannot be used, the slower backend 'torch' runs instead: {reason}. "
        'MMVIM_SCAN_BACKEND=torch chooses it without this warning.',
        RuntimeWarning,
        stacklevel=4,
    )
