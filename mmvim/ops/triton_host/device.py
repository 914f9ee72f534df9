"""Whether and where the Triton kernels run."""

import contextlib
import importlib.util
import os

import torch
from torch import Tensor


def installed() -> bool:
    """Whether Triton can be imported."""
    try:
        return importlib.util.find_spec('triton') is not None
    except ImportError:  # somebody's import hook says no
        return False


_INSTALLED = installed()


@torch.compiler.assume_constant_result
def interpreting() -> bool:
    """Whether Triton interprets its kernels, on CPU tensors."""
    return os.environ.get('TRITON_INTERPRET') == '1'


def on_triton(x: Tensor) -> bool:
    """Whether `x` is where Triton can reach it: on a GPU, or anywhere if it interprets its kernels."""
    return _INSTALLED and (x.device.type in ('cuda', 'xpu') or interpreting())


def current(device: torch.device) -> contextlib.AbstractContextManager:
    """Make `device` the current one: Triton launches there, whatever device the tensors are on."""
    if device.type in ('cuda', 'xpu'):
        return getattr(torch, device.type).device(device)
    return contextlib.nullcontext()
