"""The C++ scan under autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.native.build import library
from mmvim.ops.selective_scan.operator import run_operator

_TENSORS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state')


def run_native(args: ScanArguments) -> tuple[Tensor, Tensor]:
    """Run the scan in C++: output and last state.

    What it does not take goes to 'torch': float64, other devices, B or C constant in time, and empty inputs.
    """
    constant = args.B.dim() != 5 or args.C.dim() != 5
    if args.u.device.type != 'cpu' or args.A.dtype != torch.float32 or constant or 0 in args.u.shape:
        return run_operator(args)
    return _NativeScan.apply(args, *(getattr(args, name) for name in _TENSORS))


def _flags(args: ScanArguments) -> tuple:
    return (args.maps, list(args.map_ids), [int(r) for r in args.reverse], [int(f) for f in args.follow],
            args.delta_softplus, args.stack)


class _NativeScan(torch.autograd.Function):

    @staticmethod
    def forward(ctx, args: ScanArguments, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        out, last_state, states = library().scan_forward(*tensors, *_flags(args), args.out_dtype, keep)
        ctx.args = args
        ctx.save_for_backward(*tensors, states)
        ctx.set_materialize_grads(False)
        return out, last_state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor | None, grad_last_state: Tensor | None) -> tuple:
        *tensors, states = ctx.saved_tensors
        if grad_out is None:
            if grad_last_state is None:
                return (None,) * (1 + len(_TENSORS))
            u, paths = tensors[0], len(ctx.args.map_ids)
            shape = (u.shape[0], paths, *u.shape[2:]) if ctx.args.stack else (u.shape[0], *u.shape[2:])
            grad_out = u.new_zeros(()).expand(shape)
        grads = library().scan_backward(grad_out, grad_last_state, *tensors, *_flags(ctx.args), states)
        return (None, *(None if x is None else g.to(x.dtype) for g, x in zip(grads, tensors, strict=True)))
