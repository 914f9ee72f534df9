"""The C++ scan as a backend; the kernels are in ``mmvim/ops/native``."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mmvim.ops.native.load import library
from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.operators import Implementation

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_run(args: ScanArguments) -> bool:
    """Return whether C++ takes a call: float32 states on a CPU, and B and C that vary in time."""
    return (
        args.u.is_cpu
        and args.A.dtype == torch.float32
        and args.B.dim() == args.C.dim() == 5
        and args.u.numel() > 0
        and args.out_dtype in _DTYPES
        and all(x is None or x.dtype in _DTYPES for x in _numbers(args))
    )


def _numbers(args: ScanArguments) -> tuple[Tensor | None, ...]:
    """Return all tensors but the maps."""
    return args[: len(TENSORS) - 1]  # type: ignore[return-value]


def _flags(args: ScanArguments) -> tuple:
    reverse, follow = [int(flag) for flag in args.reverse], [int(flag) for flag in args.follow]
    return list(args.map_ids), reverse, follow, args.length, args.partial, args.delta_softplus, args.stack


def forward(args: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run the forward pass: output, last state and, if ``save``, the states before the chunks."""
    out, last_state, boundaries = library().scan_forward(*args[: len(TENSORS)], *_flags(args), args.out_dtype, save)
    return out, last_state, boundaries.view(-1)


def backward(args: ScanArguments, grad_out: Tensor, grad_last_state: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Run the backward pass: gradients by name."""
    grads = library().scan_backward(
        grad_out, grad_last_state, *args[: len(TENSORS)], *_flags(args), saved.view(_boundaries_shape(args))
    )
    found, tensors = dict(zip(TENSORS, grads, strict=False)), args.tensors()
    return {name: grad.to(tensors[name].dtype) for name, grad in found.items() if name in tensors}


def saved_size(args: ScanArguments) -> int:
    """Return the number of values of the states before the chunks."""
    return math.prod(_boundaries_shape(args))


def _boundaries_shape(args: ScanArguments) -> tuple[int, ...]:
    """Return (b, K, blocks of channels, chunks, N, channels of a block)."""
    batch, _, dim, _ = args.u.shape
    chunk, lanes = _layout()
    blocks = args.groups * -(-(dim // args.groups) // lanes)
    return batch, args.num_paths, blocks, -(-args.steps // chunk), args.A.shape[-1], lanes


@functools.cache
def _layout() -> tuple[int, int]:
    """Return how the library cuts its work: steps of a chunk, and channels of a block."""
    return tuple(library().layout())


IMPLEMENTATION = Implementation(forward, backward, saved_size)
