"""The torch.library operators ``mmvim::selective_scan_fwd`` and ``mmvim::selective_scan_bwd``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.autograd import differentiate
from mmvim.ops.selective_scan.backward import backward
from mmvim.ops.selective_scan.flops import count_flops
from mmvim.ops.selective_scan.forward import forward
from mmvim.ops.selective_scan.problem import Problem
from mmvim.ops.selective_scan.single_state import forward as forward_single_state
from mmvim.ops.selective_scan.single_state_backward import backward as backward_single_state
from mmvim.ops.selective_scan.whole import gate, gate_backward


def run_operator(args: ScanArguments) -> tuple[Tensor, Tensor]:
    """Run the scan as an operator: output and last state."""
    tensors = [getattr(args, name) for name in TENSORS]
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    out, last_state, _, _ = torch.ops.mmvim.selective_scan_fwd(
        *tensors,
        list(args.map_ids),
        list(args.reverse),
        list(args.follow),
        args.delta_softplus,
        args.stack,
        args.out_dtype,
        save,
        _threads(),
    )
    return out, last_state


@torch.compiler.assume_constant_result
def _threads() -> int:
    """PyTorch's thread count; a constant of a compiled graph, for torch.compile cannot trace the question."""
    return torch.get_num_threads()


@torch.library.custom_op('mmvim::selective_scan_fwd', mutates_args=())
def selective_scan_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor],
    z: Optional[Tensor],
    delta_bias: Optional[Tensor],
    initial_state: Optional[Tensor],
    maps: Optional[Tensor],
    map_ids: Sequence[int],
    reverse: Sequence[bool],
    follow: Sequence[bool],
    delta_softplus: bool,
    stack: bool,
    out_dtype: torch.dtype,
    save: bool,
    threads: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """K scans; shapes as in :class:`ScanArguments`.

    Args:
        save: Keep what the backward pass needs.
        threads: Thread count that the work is cut for; the backward pass, which may run under another one, must cut it
            alike. Defaults to 0, that of the calling thread.

    Returns:
        out: (b, D, L) or (b, K, D, L) in `out_dtype`.
        last_state: (b, K, D, N) in state dtype.
        y: The output before gating in state dtype, if there are z and `save`; else empty.
        boundaries: States before the chunks, (chunks, K, b, G, N, D/G), if `save`; else empty.
    """
    problem = Problem(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        maps,
        list(map_ids),
        list(reverse),
        list(follow),
        delta_softplus,
        stack,
        threads,
    )
    with _full_precision(u):
        plan = problem.plan()
        out_4d, y_4d, last_state, boundaries = _allocate(problem, plan.num_chunks, out_dtype, save)
        y = out_4d if y_4d is None else y_4d
        run = forward_single_state if problem.single_state else forward
        run(problem, plan, y, last_state, boundaries if save else None)
        if z is not None:
            gate(y, z, out_4d)
        elif y is not out_4d:
            out_4d.copy_(y)
    kept = y if save and z is not None else A.new_empty(0)
    return _drop_path_axis(out_4d, stack), last_state, _drop_path_axis(kept, stack), boundaries


def _allocate(
    problem: Problem, chunks: int, out_dtype: torch.dtype, save: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """out, a tensor for y before gating where it cannot be out itself, last_state, boundaries."""
    batch, _, dim, length = problem.u.shape
    paths = problem.num_paths
    d_state = problem.A.shape[-1]

    def like_u(dtype: torch.dtype) -> Tensor:
        kept = paths if problem.stack else 1
        if _channels_last(problem.u):
            return problem.u.new_empty((batch, kept, length, dim), dtype=dtype).transpose(2, 3)
        return problem.u.new_empty((batch, kept, dim, length), dtype=dtype)

    out = like_u(out_dtype)
    written_once = problem.stack or paths == 1
    gated = problem.z is not None
    apart = (save and gated) or (out_dtype != problem.dtype and not (written_once and not gated))
    y = like_u(problem.dtype) if apart else None
    last_state = problem.A.new_empty((batch, paths, dim, d_state))
    groups = problem.groups
    boundaries = problem.A.new_empty((chunks, paths, batch, groups, d_state, dim // groups) if save else (0,))
    return out, y, last_state, boundaries


def _channels_last(u: Tensor) -> bool:
    return u.stride(-2) == 1 and u.stride(-1) != 1


def _drop_path_axis(x: Tensor, stack: bool) -> Tensor:
    return x if stack or x.dim() < 4 else x.squeeze(1)


@selective_scan_fwd.register_fake
def _(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    initial_state,
    maps,
    map_ids,
    reverse,
    follow,
    delta_softplus,
    stack,
    out_dtype,
    save,
    threads=0,
):
    problem = Problem(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        maps,
        list(map_ids),
        list(reverse),
        list(follow),
        delta_softplus,
        stack,
        threads,
    )
    out, y, last_state, boundaries = _allocate(problem, problem.plan().num_chunks if save else 0, out_dtype, save)
    kept = y if save and z is not None else A.new_empty(0)
    return _drop_path_axis(out, stack), last_state, _drop_path_axis(kept, stack), boundaries


@torch.library.custom_op('mmvim::selective_scan_bwd', mutates_args=())
def selective_scan_bwd(
    grad_out: Tensor,
    grad_last_state: Optional[Tensor],
    y: Tensor,
    boundaries: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional[Tensor],
    z: Optional[Tensor],
    delta_bias: Optional[Tensor],
    initial_state: Optional[Tensor],
    maps: Optional[Tensor],
    map_ids: Sequence[int],
    reverse: Sequence[bool],
    follow: Sequence[bool],
    delta_softplus: bool,
    stack: bool,
    threads: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state; empty for those that were None."""
    problem = Problem(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        maps,
        list(map_ids),
        list(reverse),
        list(follow),
        delta_softplus,
        stack,
        threads,
    )
    with _full_precision(u):
        if not stack:
            grad_out, y = grad_out.unsqueeze(1), y.unsqueeze(1)
        grad_z = None
        if z is not None:
            grad_y, grad_z = torch.empty_like(y), torch.empty_like(z)
            gate_backward(grad_out, y, z, grad_y, grad_z)
            grad_out = grad_y
        run = backward_single_state if problem.single_state else backward
        grads = run(problem, problem.plan(), grad_out, grad_last_state, boundaries)
    if grad_z is not None:
        grads['z'] = grad_z
    return tuple(
        grads[name].to(x.dtype) if x is not None else A.new_empty(0)
        for name, x in zip(TENSORS[:-1], (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True)
    )


@selective_scan_bwd.register_fake
def _(grad_out, grad_last_state, y, boundaries, u, delta, A, B, C, D, z, delta_bias, initial_state, *flags):
    return tuple(
        torch.empty_like(x) if x is not None else A.new_empty(0)
        for x in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    )


def _gradients(grad_out, grad_last_state, kept, tensors, flags):
    return torch.ops.mmvim.selective_scan_bwd(grad_out, grad_last_state, *kept, *tensors, *flags)


differentiate('mmvim::selective_scan_fwd', 'mmvim::selective_scan_bwd', _gradients)
count_flops(torch.ops.mmvim.selective_scan_fwd, torch.ops.mmvim.selective_scan_bwd, first_input=4)


def _full_precision(u: Tensor) -> torch.autocast:
    """Autocast reaches into the body of an operator; the state must stay in its own precision."""
    return torch.autocast(u.device.type, enabled=False)
