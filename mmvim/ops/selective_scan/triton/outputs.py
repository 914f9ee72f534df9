"""What the forward pass fills: its results, and what it keeps for the backward pass."""

from __future__ import annotations

import math

from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton.blocks import CHUNK
from mmvim.ops.selective_scan.triton.memory import clear_end, new_tensor


def allocate(args: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate what the forward pass fills, in the kernels' order.

    Args:
        args: The scan.
        save: Whether to keep what the backward pass needs.

    Returns:
        - out: (b, 1|K, L, D) in ``args.out_dtype``; zero where no step of partial paths may come.
        - last_state: (b, K, N, D) float32.
        - saved: What :func:`split_saved` takes apart, one axis, float32; empty if not ``save``.
    """
    batch, paths, d_state, dim = _states_shape(args)
    clear = args.partial and not is_merged(args)
    out = new_tensor(args.u, _out_shape(args), clear, args.out_dtype)
    saved = new_tensor(args.A, (saved_size(args) if save else 0,))
    if save and clear and args.z is not None:  # y
        clear_end(saved, _part_sizes(args)[0])
    return out, new_tensor(args.A, (batch, paths, d_state, dim)), saved


def is_merged(args: ScanArguments) -> bool:
    """Check whether paths leave an output each, which another kernel adds up and gates."""
    return args.num_paths > 1 and not args.stack


def saved_size(args: ScanArguments) -> int:
    """Return the number of float32 values that the forward pass saves; those of y may be two in one."""
    boundaries, y = _part_sizes(args)
    return boundaries + -(-y * args.out_dtype.itemsize // 4)


def split_saved(args: ScanArguments, saved: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the parts of what the forward pass saves, as views.

    Returns:
        - boundaries: (b, K, ceil(T / CHUNK), N, D) float32.
        - y: The output before gating, (b, 1|K, L, D) in ``args.out_dtype``, if there is z, else None.
    """
    batch, paths, d_state, dim = _states_shape(args)
    chunks = -(-args.steps // CHUNK)
    boundaries = saved[: batch * paths * chunks * d_state * dim].view(batch, paths, chunks, d_state, dim)
    start, size = _part_sizes(args)
    y = saved[start:].view(args.out_dtype)[:size].view(_out_shape(args)) if size else None
    return boundaries, y


def _states_shape(args: ScanArguments) -> tuple[int, int, int, int]:
    """Return (b, K, N, D)."""
    return args.u.shape[0], args.num_paths, args.A.shape[-1], args.u.shape[2]


def _out_shape(args: ScanArguments) -> tuple[int, int, int, int]:
    """Return (b, 1|K, L, D)."""
    batch, paths, _, dim = _states_shape(args)
    return batch, paths if args.stack else 1, args.length, dim


def _part_sizes(args: ScanArguments) -> tuple[int, int]:
    """Return the number of values of the boundary states, filled up to 16 bytes, and of y."""
    batch, paths, d_state, dim = _states_shape(args)
    boundaries = batch * paths * -(-args.steps // CHUNK) * d_state * dim
    return -(-boundaries // 4) * 4, 0 if args.z is None else math.prod(_out_shape(args))
