"""Backward pass of the chunked scan: chunks from the last to the first, states recomputed from those at chunk starts.

With g[t] the gradient of state h[t], a[t] = exp(delta[t] * A) and v = delta * u,

    g[t]     = C[t] * dy[t] + a[t+1] * g[t+1]
    dC[t]    = sum over channels of h[t] * dy[t]              dB[t] = sum over channels of g[t] * v[t]
    dv[t]    = sum over n of B[t] * g[t]                      q[t]  = g[t] * a[t] * h[t-1]
    ddelta   = u * dv + sum over n of A * q                   dA    = sum over t of delta * q
    du       = delta * dv + D * dy                            dD    = sum over t of u * dy
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.selective_scan.access import ChunkIndex, PathGroup, Writer
from mmvim.ops.selective_scan.chunk import (
    ChunkInputs,
    Workspace,
    contract,
    decays,
    outer,
    project,
    scan_backward,
    scan_forward,
)
from mmvim.ops.selective_scan.plan import Plan, Slab
from mmvim.ops.selective_scan.problem import Problem, SlabInputs


def backward(problem: Problem, plan: Plan, grad_out: Tensor, grad_last_state: Tensor | None, boundaries: Tensor
             ) -> dict[str, Tensor]:
    """Gradients of all inputs but z.

    Args:
        problem: The inputs of the forward pass.
        plan: How it was cut.
        grad_out: Gradient of the output before gating, (b, 1, D, L) or (b, K, D, L).
        grad_last_state: (b, K, D, N) or None.
        boundaries: States before the chunks, as the forward pass left them.

    Returns:
        A gradient for each tensor of `problem`, by name, in state dtype and in the tensor's shape.
    """
    grads = {name: _new_grad(x, problem.dtype) for name, x in problem.differentiable().items()}
    work = Workspace(problem.A)
    path_slabs = len({slab.paths.start for slab in plan.slabs})
    for slab in plan.slabs:
        _BackwardSlab(problem, plan, slab, grads, grad_out, path_slabs > 1, work).run(grad_last_state, boundaries)
    return grads


def _new_grad(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros in the shape and, where it is dense, the memory order of `x`."""
    return torch.zeros_like(x, dtype=dtype, memory_format=torch.preserve_format)


class _BackwardSlab:
    def __init__(self, problem: Problem, plan: Plan, slab: Slab, grads: dict[str, Tensor], grad_out: Tensor,
                 paths_are_split: bool, work: Workspace) -> None:
        self.problem, self.plan, self.work = problem, plan, work
        followed, raster = problem.path_groups(slab)
        self.inputs = inputs = SlabInputs(problem, slab, followed, raster)
        self.sizes = (*inputs.rows, inputs.d_state, inputs.channels)
        self.grad_out = inputs.reader(inputs.part(grad_out, channels=True), followed)
        self.grads, self.index = grads, ChunkIndex()
        self.whole_channels = inputs.channels == problem.A.shape[1] // problem.groups

        def writer(name: str, follow: bool, channels: bool) -> Writer:
            orders: list[PathGroup] = followed if follow else raster
            x = grads[name]
            repeated = x.shape[1] < problem.num_paths and (paths_are_split or len(orders) > 1)
            return Writer(inputs.part(x, channels), orders, add=repeated or (not channels and not self.whole_channels))

        self.write_u = writer('u', problem.follow[0], True)
        self.write_delta = writer('delta', problem.follow[1], True)
        self.write_B = writer('B', problem.follow[2], False) if inputs.B is not None else None
        self.write_C = writer('C', problem.follow[3], False) if inputs.C is not None else None
        # Views of the constant tensors' gradients, which every chunk and slab adds to.
        self.grad_A = inputs.constant(grads['A'])
        self.grad_B = None if inputs.B is not None else inputs.constant(grads['B'])
        self.grad_C = None if inputs.C is not None else inputs.constant(grads['C'])
        self.grad_D = inputs.vector(grads['D']) if 'D' in grads else None
        self.grad_bias = inputs.vector(grads['delta_bias']) if 'delta_bias' in grads else None

    def run(self, grad_last_state: Tensor | None, boundaries: Tensor) -> None:
        inputs = self.inputs
        carry = self.problem.A.new_zeros(self.sizes)
        if grad_last_state is not None:
            carry.copy_(inputs.state(grad_last_state))
        for i in range(len(self.plan.chunks) - 1, -1, -1):
            carry = self._chunk(i, inputs.boundary(boundaries[i]), carry)
        if 'initial_state' in self.grads:
            inputs.state(self.grads['initial_state']).copy_(carry)

    def _chunk(self, i: int, state: Tensor, carry: Tensor) -> Tensor:
        """One chunk's gradients; takes and returns the gradient of the state after and before it."""
        chunk, inputs, work, index = self.plan.chunks[i], self.inputs, self.work, self.index
        steps, segments = chunk.steps, chunk.segments
        x = ChunkInputs(inputs, chunk, index)
        dy = self.grad_out.read(chunk, index)

        # The states again: h[0] is the one before each segment, h[1:] those after each step.
        a, a_steps = decays(inputs, x, work)
        h, h_steps = work.get('state', (steps + 1, segments, *self.sizes))
        v = x.delta * x.u
        outer(v, x.B, inputs.B_constant, out=h[1:])
        product = product_steps = None
        if segments > 1:
            product, product_steps = work.get('product', tuple(a.shape))
        before = scan_forward(state, h_steps[1:], a_steps, product_steps)
        if before is None:
            h_steps[0].copy_(state)
        else:
            h[1:].addcmul_(product, before)
            h_steps[0].copy_(before)

        # The gradients of the states.
        g, g_steps = work.get('grad', (steps, segments, *self.sizes))
        outer(dy, x.C, inputs.C_constant, out=g)
        carry, after = scan_backward(carry, g_steps, a_steps, product_steps)
        if after is not None:
            g.addcmul_(product, after)

        # What B, C and delta * u get.
        if x.C is None:
            _add_sum(self.grad_C, h[1:] * dy.unsqueeze(-2))
        else:
            self.write_C.write(contract(h[1:], dy), chunk, index)
        if x.B is None:
            _add_sum(self.grad_B, g * v.unsqueeze(-2))
        else:
            self.write_B.write(contract(g, v), chunk, index)
        dv = project(g, x.B, inputs.B_constant)

        # q, and what A and delta get.
        g.mul_(a).mul_(h[:-1])
        scratch = h[1:]
        ddelta = torch.mul(g, inputs.A, out=scratch).sum(dim=-2) if inputs.d_state > 1 else (g * inputs.A).squeeze(-2)
        ddelta.addcmul_(x.u, dv)
        _add_sum(self.grad_A, torch.mul(g, x.delta.unsqueeze(-2), out=scratch))
        if self.problem.delta_softplus:
            ddelta.mul_(torch.expm1(-x.delta).neg_())  # sigmoid of what softplus was applied to
        if self.grad_bias is not None:
            _add_sum(self.grad_bias, ddelta)
        self.write_delta.write(ddelta, chunk, index)

        # What u and D get.
        if self.grad_D is not None:
            _add_sum(self.grad_D, dy * x.u)
        du = dv.mul_(x.delta)
        if inputs.D is not None:
            du.addcmul_(dy, inputs.D)
        self.write_u.write(du, chunk, index)
        return carry


def _add_sum(total: Tensor, values: Tensor) -> None:
    """Add to a constant tensor's gradient (1|K, 1, G, ...) the sum of (steps, segments, K, b, G, ...)."""
    values = values.flatten(0, 1).sum(dim=0)
    if values.shape[0] > total.shape[0]:
        values = values.sum(dim=0, keepdim=True)
    if values.shape[1] > 1:
        values = values.sum(dim=1, keepdim=True)
    total.add_(values)
