"""A call that nobody watches goes to its backend by the shortest way, past PyTorch's dispatcher.

The operators of ``operators.py`` are what compilers, exporters, counters and transforms see. A call of one costs the
host as long as the kernels of a small scan take on a GPU, several times as long with gradients. So in eager mode, with
plain tensors, the backend is called itself, and its gradients come in by one :class:`torch.autograd.Function` of the
user's own tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmvim.ops.backends import REFERENCE
from mmvim.ops.define import are_plain, is_watched
from mmvim.ops.selective_scan.arguments import TENSORS, ScanArguments
from mmvim.ops.selective_scan.operators import BACKENDS, WATCHERS, Implementation, run, selective_scan_bwd
from mmvim.ops.selective_scan.recipes import normalise


def call(
    check: Callable[..., ScanArguments], tensors: Sequence[Tensor | None], flags: dict, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Run the scan of a public function: output (b, [K,] D, L) and last state (b, K, D, N).

    Args:
        check: Checks the arguments and brings them into the common form.
        tensors: Those of them that are tensors, as the user gave them, in the order of ``TENSORS`` without maps.
        flags: The others, by name.
        backend: As the user named it, or None.

    Raises:
        TypeError, ValueError: See the public functions.
    """
    if WATCHERS or is_watched() or not are_plain(*tensors) or any(x is not None and x.is_meta for x in tensors):
        return run(check(*tensors, **flags), backend)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    # Views, or copies of another dtype, without a gradient of their own; a change of theirs in place is noticed.
    bare: Sequence[Any] = [None if x is None else x.detach() for x in tensors] if differentiable else tensors
    with torch.no_grad():
        args = normalise(check, bare, flags)
    name = BACKENDS.select(backend, args.u.device.type, args)
    implementation = BACKENDS[name].implementation
    if name == REFERENCE or not are_plain(args.maps):
        return run(check(*tensors, **flags), backend)
    if not differentiable:
        # As in an operator: what a backend does to the tensors that it makes is not autograd's business.
        with torch._C._AutoDispatchBelowAutograd():
            return implementation.forward(args, False)[:2]
    if bare[3].numel() != args.B.numel() or bare[4].numel() != args.C.numel():  # repeated for groups
        return run(check(*tensors, **flags), backend)
    return SelectiveScan.apply(args, implementation, name, functools.partial(check, **flags), *tensors)


class SelectiveScan(torch.autograd.Function):
    """The scan of normalised arguments as a function of the tensors that they are views or copies of."""

    @staticmethod
    def forward(
        ctx: Any,
        args: ScanArguments,
        implementation: Implementation,
        name: str,
        normalise: Callable[..., ScanArguments],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the forward pass, which keeps what the backward pass needs."""
        if implementation.lay_out:
            args = implementation.lay_out(args)
        out, last_state, saved = implementation.forward(args, True)
        count = len(TENSORS)
        ctx.save_for_backward(saved, *args[:count], *tensors)
        ctx.normalise = normalise
        ctx.flags, ctx.implementation, ctx.name = args[count:], implementation, name
        ctx.given = [None if x is None else (x.shape, x.dtype) for x in tensors]
        ctx.set_materialize_grads(False)
        return out, last_state

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_last_state: Tensor | None) -> tuple[Any, ...]:
        """Run the backward pass; by the operator, which refuses a second derivative, if somebody asks for one."""
        if grad_out is None and grad_last_state is None:
            return (None,) * (4 + len(ctx.given))
        saved, *kept = ctx.saved_tensors  # once: asking again fails under activation checkpointing
        tensors, given = kept[: len(TENSORS)], kept[len(TENSORS) :]
        args = ScanArguments(*tensors, *ctx.flags)
        if grad_out is None:  # the output was not used
            grad_out = no_gradient(args)
        if torch.is_grad_enabled() or is_watched() or not are_plain(grad_out, grad_last_state, saved, *tensors):
            args = ctx.normalise(*given) if torch.is_grad_enabled() else args  # where derivatives may go on
            grads = selective_scan_bwd(grad_out, grad_last_state, saved, *args[:-1], ctx.name)
        else:
            found = ctx.implementation.backward(args, grad_out, grad_last_state, saved)
            grads = [found.get(name) for name in TENSORS[:-1]]
        return (None, None, None, None, *map(_as_given, grads, ctx.given, ctx.needs_input_grad[4:]))


def _as_given(grad: Tensor | None, given: tuple[torch.Size, torch.dtype] | None, needed: bool) -> Tensor | None:
    """Return a gradient in the shape and dtype of the tensor that the user gave."""
    if given is None or grad is None or not needed:
        return None
    shape, dtype = given
    grad = grad if grad.shape == shape else grad.reshape(shape)
    return grad if grad.dtype == dtype else grad.to(dtype)


def no_gradient(args: ScanArguments) -> Tensor:
    """Return zeros for the gradient of an output that was not used."""
    batch, _, dim, _ = args.u.shape
    lead = (batch, args.num_paths) if args.stack else (batch,)
    return args.u.new_zeros((), dtype=args.out_dtype).expand(*lead, dim, args.length)
