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

from mmvim.ops.selective_scan.access import ChunkIndex, PathGroup, Reader, Writer
from mmvim.ops.selective_scan.chunk import ChunkBuffers, Contract, Outer, Project, Workspace
from mmvim.ops.selective_scan.plan import Chunk, Plan, Slab
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
    grads = {name: torch.zeros_like(x, dtype=problem.dtype) for name, x in problem.differentiable().items()}
    work = Workspace(problem.A)
    for slab in plan.slabs:
        _SlabBackward(problem, plan, slab, grads, grad_out, work).run(grad_last_state, boundaries)
    return grads


class _SlabBackward:
    """One slab's gradients, chunk by chunk."""

    def __init__(self, problem: Problem, plan: Plan, slab: Slab, grads: dict[str, Tensor], grad_out: Tensor,
                 work: Workspace) -> None:
        self.problem, self.plan, self.grads, self.work = problem, plan, grads, work
        self.inputs = inputs = SlabInputs(problem, slab)
        self.grad_out = inputs.part(grad_out, channels=True)
        self.index = ChunkIndex()
        self.buffers: dict[tuple[int, int], _ChunkBackward] = {}
        # Sums over the slab's steps, by row.
        self.sums = {'A': work.get('sum_A', *inputs.state_shape).zero_()}
        for name, constant in (('B', inputs.B_constant), ('C', inputs.C_constant)):
            if constant is not None:
                self.sums[name] = work.get(f'sum_{name}', *inputs.state_shape).zero_()
        for name in ('D', 'delta_bias'):
            if name in grads:
                self.sums[name] = work.get(f'sum_{name}', *inputs.rows, inputs.channels).zero_()

    def run(self, grad_last_state: Tensor | None, boundaries: Tensor) -> None:
        inputs, work = self.inputs, self.work
        carry, state = work.get('carry', *inputs.state_shape), work.get('start', *inputs.state_shape)
        if grad_last_state is None:
            carry.zero_()
        else:
            carry.copy_(inputs.state(grad_last_state))
        for i in range(len(self.plan.chunks) - 1, -1, -1):
            chunk = self.plan.chunks[i]
            key = (chunk.steps, chunk.segments)
            if key not in self.buffers:
                self.buffers[key] = _ChunkBackward(self, *key)
            state.copy_(inputs.boundary(boundaries[i]))
            self.buffers[key].run(chunk, state, carry)
        for name, total in self.sums.items():
            place = inputs.vector if total.dim() == 4 else inputs.constant
            self._add_constant(place(self.grads[name]), total)
        if 'initial_state' in self.grads:
            inputs.state(self.grads['initial_state']).copy_(carry)

    @staticmethod
    def _add_constant(grad: Tensor, total: Tensor) -> None:
        """Add the sum over the batch, and over the paths where they share the tensor, to (1|K, 1, G, ...)."""
        total = total.sum(dim=1, keepdim=True)
        grad.add_(total.sum(dim=0, keepdim=True) if grad.shape[0] < total.shape[0] else total)

    def writer(self, name: str, buffer: Tensor) -> Writer:
        """Into the gradient of u, delta, B or C."""
        inputs = self.inputs
        orders: list[PathGroup] = inputs.orders[name]
        x = self.grads[name]
        shared = x.shape[1] < self.problem.num_paths
        split = inputs.num_paths < self.problem.num_paths
        partial = name in 'BC' and inputs.channels < self.problem.A.shape[1] // self.problem.groups
        return Writer(inputs.part(x, channels=name in ('u', 'delta')), orders, buffer,
                      add=partial or (shared and (split or len(orders) > 1)))


class _ChunkBackward:
    """Buffers and operations for chunks of one shape."""

    def __init__(self, owner: _SlabBackward, steps: int, segments: int) -> None:
        inputs, work = owner.inputs, owner.work
        self.inputs, self.index, self.segments = inputs, owner.index, segments
        self.x = x = ChunkBuffers(inputs, work, steps, segments, for_backward=True)
        d_state, channels = inputs.d_state, inputs.channels
        all_steps = steps * segments
        self.ones = x.h.new_ones(all_steps)

        self.dy = work.get('dy', *x.rows, channels)
        self.read_dy = Reader(owner.grad_out, inputs.followed, self.dy)
        self.g = work.get('g', *x.rows, d_state, channels)
        self.start_g = Outer(self.dy, x.C, inputs.C_constant, self.g)
        g, a = self.g.unbind(0), x.decay.unbind(0)
        self.first_decay, self.first_g, self.last_g = a[0], g[0], g[-1]
        self.scan_steps = list(zip(reversed(g[:-1]), reversed(a[1:]), reversed(g[1:]), strict=True))
        if segments > 1:
            # The product of decays from a step to its segment's end.
            p = x.product.unbind(0)
            self.last_product = p[-1]
            self.products = list(zip(reversed(p[:-1]), reversed(a[1:]), reversed(p[1:]), strict=True))
            self.after = work.get('after', segments, *inputs.state_shape)
            after, total = self.after.unbind(0), p[0]
            self.last_after = after[-1]
            self.joints = list(zip(reversed(after[:-1]), reversed(after[1:]), reversed(g[0].unbind(0)[1:]),
                                   reversed(total.unbind(0)[1:]), reversed(a[0].unbind(0)[1:]), strict=True))

        self.previous = x.h[:-1]
        self.scratch = x.states  # free once q is there
        self.row = work.get('row', *x.rows, channels)
        self.dv, self.ddelta = work.get('dv', *x.rows, channels), work.get('ddelta', *x.rows, channels)
        self.write_u, self.write_delta = owner.writer('u', self.dv), owner.writer('delta', self.ddelta)

        if x.C is not None:
            dC = work.get('dC', *x.rows, d_state)
            self.contract_C, self.write_C = Contract(x.states, self.dy, dC, self.row), owner.writer('C', dC)
        else:
            self.products_C = Outer(self.dy, None, x.states, self.g)
        product_B = self.scratch
        if x.B is not None:
            dB = work.get('dB', *x.rows, d_state)
            self.contract_B, self.write_B = Contract(self.g, x.v, dB, self.row), owner.writer('B', dB)
        else:
            product_B = work.get('product_B', *x.rows, d_state, channels)
            self.products_B = Outer(x.v, None, self.g, product_B)
        self.project_B = Project(self.g, x.B, inputs.B_constant, self.dv, product_B)
        self.project_A = Project(self.g, None, inputs.A, self.ddelta, self.scratch)
        self.products_A = Outer(x.delta, None, self.g, self.scratch)
        self.delta_of_row = x.delta.expand(self.dv.shape)

        def columns(buffer: Tensor) -> Tensor:
            """A buffer as a matrix of (everything else) x (all steps)."""
            return buffer.view(all_steps, -1).t()

        self.totals = {name: total.view(-1) for name, total in owner.sums.items()}
        self.terms = {'A': columns(self.scratch), 'B': columns(product_B), 'C': columns(self.g),
                      'D': columns(self.row), 'delta_bias': columns(self.ddelta)}

    def run(self, chunk: Chunk, state: Tensor, carry: Tensor) -> None:
        """One chunk's gradients.

        Args:
            chunk: Which one.
            state: State before it, (K, b, G, N, C); overwritten.
            carry: Gradient that reaches its last state from later chunks; replaced by that which reaches the state
                before it.
        """
        x, index = self.x, self.index
        x.load(chunk, index)
        self.read_dy.read(chunk, index)
        x.scan(state)

        if x.C is not None:
            self.contract_C.run()
            self.write_C.write(chunk, index)
        else:
            self.products_C.run()
            self._add_total('C')

        self.start_g.run()
        self._scan_back(carry)
        if x.B is not None:
            self.contract_B.run()
            self.write_B.write(chunk, index)
        else:
            self.products_B.run()
            self._add_total('B')
        self.project_B.run()

        self.g.mul_(x.decay).mul_(self.previous)  # now q
        self.project_A.run()
        self.ddelta.addcmul_(self.dv, x.u)
        self.products_A.run()
        self._add_total('A')
        if x.biased is not x.delta:
            self.ddelta.mul_(x.biased.sigmoid_())  # the slope of softplus
        self._add_total('delta_bias')
        self.write_delta.write(chunk, index)

        if 'D' in self.totals:
            torch.mul(self.dy, x.u, out=self.row)
            self._add_total('D')
        torch.mul(self.dv, self.delta_of_row, out=self.dv)
        if self.inputs.D is not None:
            self.dv.addcmul_(self.dy, self.inputs.D)
        self.write_u.write(chunk, index)

    def _add_total(self, name: str) -> None:
        if name in self.totals:
            self.totals[name].addmv_(self.terms[name], self.ones)

    def _scan_back(self, carry: Tensor) -> None:
        """g[t] = g[t] + decay[t+1] * g[t+1], see :meth:`run` for the carry."""
        if self.segments == 1:
            self.last_g.add_(carry)
            for g, a, following in self.scan_steps:
                g.addcmul_(a, following)
            torch.mul(self.first_decay, self.first_g, out=carry.unsqueeze(0))
            return
        self.last_product.fill_(1)
        for g, a, following in self.scan_steps:
            g.addcmul_(a, following)
        for p, a, following in self.products:
            torch.mul(a, following, out=p)
        self.last_after.copy_(carry)
        for after, following, g, p, a in self.joints:
            torch.addcmul(g, p, following, out=after)
            after.mul_(a)
        self.g.addcmul_(self.x.product, self.after)
        torch.mul(self.first_decay[0], self.first_g[0], out=carry)
