"""The derivative of a scan operator by its backward operator; the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import TENSORS

# Arguments of a forward operator after the tensors that its backward operator also takes: map_ids, reverse, follow,
# delta_softplus, stack. Then come out_dtype and save, which it does not, and what else a backend has.
_FLAGS = 5

# Gradients of TENSORS but maps, empty where the tensor was None, of the gradients of output and last state, of what
# the forward operator kept (its results from the third on), its tensors, and its further arguments.
Gradients = Callable[[Tensor, Tensor | None, Sequence[Tensor], Sequence[Tensor | None], Sequence], Sequence[Tensor]]


def differentiate(forward: str, backward: str, gradients: Gradients) -> None:
    """Register the derivative of the operator `forward`, and the refusal of that of `backward`."""

    def setup_context(ctx, inputs, output) -> None:
        count = len(TENSORS)
        kept = output[2:]
        ctx.save_for_backward(*kept, *inputs[:count])
        ctx.num_kept = len(kept)
        ctx.flags = (*inputs[count : count + _FLAGS], *inputs[count + _FLAGS + 2 :])
        ctx.num_inputs = len(inputs)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)

    def run(ctx, grad_out, grad_last_state, *_):
        if grad_out is None and grad_last_state is None:
            return (None,) * ctx.num_inputs
        saved = ctx.saved_tensors  # once: asking again fails under activation checkpointing
        kept, tensors = saved[: ctx.num_kept], saved[ctx.num_kept :]
        if grad_out is None:  # the output was not used
            u, (map_ids, *_, stack) = tensors[0], ctx.flags[:_FLAGS]
            shape = (u.shape[0], len(map_ids), *u.shape[2:]) if stack else (u.shape[0], *u.shape[2:])
            grad_out = u.new_zeros(()).expand(shape)
        grads = gradients(grad_out, grad_last_state, kept, tensors, ctx.flags)
        grads = [None if x is None else g.to(x.dtype) for g, x in zip(grads, tensors, strict=False)]
        return (*grads, *(None,) * (ctx.num_inputs - len(grads)))

    def refuse(ctx, *grads):
        raise RuntimeError(
            f'{backward} has no autograd formula: second derivatives of the selective scan are not '
            "implemented; backend='reference' has them"
        )

    torch.library.register_autograd(forward, run, setup_context=setup_context)
    torch.library.register_autograd(backward, refuse)
