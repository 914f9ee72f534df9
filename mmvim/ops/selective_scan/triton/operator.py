"""The torch.library operators ``mmvim::selective_scan_triton_fwd`` and ``mmvim::selective_scan_triton_bwd``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.autograd import differentiate
from mmvim.ops.selective_scan.flops import count_flops
from mmvim.ops.selective_scan.triton import launches as plan
from mmvim.ops.selective_scan.triton import tuning
from mmvim.ops.triton_host.device import device_guard


@torch.library.custom_op('mmvim::selective_scan_triton_fwd', mutates_args=())
def scan_fwd(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """K scans; shapes as in :class:`ScanArguments`.

    Returns:
        out: (b, D, L) or (b, K, D, L) in `out_dtype`, channels contiguous.
        last_state: (b, K, D, N) float32.
        y: The output before gating, if there are z and `save`; else empty.
        bounds: States kept for the backward pass, if `save`; else empty.
    """
    args = ScanArguments(
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
        tuple(map_ids),
        tuple(reverse),
        tuple(follow),
        delta_softplus,
        stack,
        out_dtype,
    )
    with device_guard(u.device):
        launches, filled = plan.forward(args, save, tuning.forward(args, save))
        for launch in launches:
            launch.run()
    return _outputs(args, *filled)


@scan_fwd.register_fake
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
):
    args = ScanArguments(
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
        tuple(map_ids),
        tuple(reverse),
        tuple(follow),
        delta_softplus,
        stack,
        out_dtype,
    )
    return _outputs(args, *plan.allocate(args, save))


def _outputs(
    args: ScanArguments, out: Tensor, last_state: Tensor, y: Tensor | None, bounds: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator's results from what the kernels fill, with the channels before the steps."""
    if not args.stack:
        out, y = out.squeeze(1), None if y is None else y.squeeze(1)
    return (
        out.transpose(-1, -2),
        last_state.transpose(2, 3),
        args.A.new_empty(0) if y is None else y,
        args.A.new_empty(0) if bounds is None else bounds,
    )


@torch.library.custom_op('mmvim::selective_scan_triton_bwd', mutates_args=())
def scan_bwd(
    grad_out: Tensor,
    grad_last_state: Optional[Tensor],
    y: Tensor,
    bounds: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state; empty for those that were None."""
    args = ScanArguments(
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
        tuple(map_ids),
        tuple(reverse),
        tuple(follow),
        delta_softplus,
        stack,
        grad_out.dtype,
    )
    rows = grad_out if stack else grad_out.unsqueeze(1)
    ungated = None if z is None else y
    with device_guard(u.device):
        launches, collect = plan.backward(
            args, rows, grad_last_state, ungated, bounds, tuning.backward(args, rows, grad_last_state, ungated, bounds)
        )
        for launch in launches:
            launch.run()
        grads = collect()
    return tuple(
        A.new_empty(0) if x is None else grads[name]
        for name, x in zip(TENSORS[:-1], (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True)
    )


@scan_bwd.register_fake
def _(grad_out, grad_last_state, y, bounds, u, delta, A, B, C, D, z, delta_bias, initial_state, *flags):
    def states_first(x: Tensor) -> Tensor:
        return x.new_empty((*x.shape[:-2], x.shape[-1], x.shape[-2])).transpose(-1, -2)

    inputs = zip(TENSORS[:-1], (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True)
    return tuple(
        A.new_empty(0) if x is None else x.new_empty(x.shape) if name in ('D', 'delta_bias') else states_first(x)
        for name, x in inputs
    )


def _gradients(grad_out, grad_last_state, kept, tensors, flags):
    return torch.ops.mmvim.selective_scan_triton_bwd(grad_out, grad_last_state, *kept, *tensors, *flags)


differentiate('mmvim::selective_scan_triton_fwd', 'mmvim::selective_scan_triton_bwd', _gradients)
count_flops(torch.ops.mmvim.selective_scan_triton_fwd, torch.ops.mmvim.selective_scan_triton_bwd, first_input=4)
