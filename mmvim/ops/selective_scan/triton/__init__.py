"""The scan in Triton, for GPUs: chosen automatically for tensors on CUDA (ROCm, XPU) devices.

`forward.py`, `backward.py` and `segments.py` have the kernels and say how they work, `merge.py` the sums over what
they leave; `plan.py` turns a scan's arguments into launches, `blocks.py` reads the table of block sizes, `operator.py`
defines the torch.library operators. Importing this package does not import Triton.

With ``TRITON_INTERPRET=1`` set before Python starts, the kernels run on CPU tensors, very slowly; that is for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.operator import run_operator
from mmvim.ops.selective_scan.triton import operator as _operator  # noqa: F401  (defines the operators)
from mmvim.ops.selective_scan.triton.launches import can_run
from mmvim.ops.triton_host.device import installed, interpreting

__all__ = ['available', 'prepare', 'run_triton', 'serves']

DEVICES = ('cuda', 'xpu')


def available() -> tuple[bool, str]:
    """Whether the backend can run here, and why (not); imports nothing."""
    if not installed():
        return False, 'Triton is not installed: pip install triton'
    if interpreting():
        return True, 'Triton, interpreted on the CPU (TRITON_INTERPRET=1); slow'
    if not any(getattr(torch, name).is_available() for name in DEVICES):
        return False, 'PyTorch finds no GPU'
    return True, 'Triton, GPUs'


def prepare() -> str:
    """What prevents a run, or an empty text."""
    usable, reason = available()
    return '' if usable else reason


def serves(device_type: str) -> bool:
    """Whether 'auto' is to take this backend."""
    return device_type in DEVICES and installed()


def run_triton(args: ScanArguments) -> tuple[Tensor, Tensor]:
    """Run the scan in Triton: output and last state.

    What it does not take goes to 'torch': float64, N above 64, B or C constant in time, empty inputs, and paths over
    more maps than 64 bits can number (16 paths over 15 maps fit, or 21 over 7).

    Raises:
        ValueError: If the tensors are on a device that Triton cannot reach.
    """
    if args.u.device.type not in DEVICES and not interpreting():
        raise ValueError(
            f"backend 'triton' of the selective scan cannot run on {args.u.device}: move the tensors to a "
            "GPU, or pass backend='auto'"
        )
    if not can_run(args):
        return run_operator(args)
    tensors = [getattr(args, name) for name in TENSORS]
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    out, last_state, _, _ = torch.ops.mmvim.selective_scan_triton_fwd(
        *tensors,
        list(args.map_ids),
        list(args.reverse),
        list(args.follow),
        args.delta_softplus,
        args.stack,
        args.out_dtype,
        save,
    )
    return out, last_state
