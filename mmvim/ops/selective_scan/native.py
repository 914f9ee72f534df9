"""The C++ scan as a backend."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from mmvim.ops.native.build import load_library
from mmvim.ops.native.operators import register
from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.operator import run_operator


def prepare() -> str:
    """Load the library and describe its operators; what went wrong, or an empty text."""
    reason = load_library()
    if not reason:
        register()
    return reason


def serves(device_type: str) -> bool:
    """Whether 'auto' is to take this backend; warns once where it would, but cannot."""
    if device_type != 'cpu':
        return False
    reason = prepare()
    if reason:
        warned(reason)
    return not reason


@functools.cache
def warned(reason: str) -> None:
    """Warn, once a process."""
    warnings.warn(
        f"the C++ selective scan cannot be used, the slower backend 'torch' runs instead: {reason}. "
        'MMVIM_SCAN_BACKEND=torch chooses it without this warning.',
        RuntimeWarning,
        stacklevel=4,
    )


def run_native(args: ScanArguments) -> tuple[Tensor, Tensor]:
    """Run the scan in C++: output and last state.

    What it does not take goes to 'torch': float64, other devices, B or C constant in time, and empty inputs.
    """
    constant = args.B.dim() != 5 or args.C.dim() != 5
    if args.u.device.type != 'cpu' or args.A.dtype != torch.float32 or constant or 0 in args.u.shape:
        return run_operator(args)
    tensors = [getattr(args, name) for name in TENSORS]
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    out, last_state, _ = torch.ops.mmvim_native.scan_forward(
        *tensors,
        list(args.map_ids),
        [int(r) for r in args.reverse],
        [int(f) for f in args.follow],
        args.delta_softplus,
        args.stack,
        args.out_dtype,
        keep,
    )
    return out, last_state
