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

from mmvim.ops.selective_scan.access import PathGroup, Reader, Writer, add_in_order
from mmvim.ops.selective_scan.chunk import ChunkBuffers, Contract, Outer, Project, Workspace, run_through
from mmvim.ops.selective_scan.plan import Chunk, Plan, Slab
from mmvim.ops.selective_scan.problem import SMALL_STATE, Problem, SlabInputs
from mmvim.ops.selective_scan.whole import skip_backward


def backward(
    problem: Problem, plan: Plan, grad_out: Tensor, grad_last_state: Tensor | None, boundaries: Tensor
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
    grads = {}
    for name, x in problem.differentiable().items():
        # What has a part of its own for each path and channel is written once.
        once = name in ('u', 'delta') and x.shape[1] == problem.num_paths
        grads[name] = (torch.empty_like if once else torch.zeros_like)(x, dtype=problem.dtype)
    skip_apart = problem.skips_alike()
    if skip_apart:
        grad_skip = skip_backward(grad_out, problem.u, problem.skip_weight(), grads['u'])
        grads['D'].add_(grad_skip * (problem.num_paths // problem.D.shape[0]))
    work = Workspace(problem.A)
    for slab in plan.slabs:
        _SlabBackward(problem, plan, slab, grads, grad_out, skip_apart, work).run(grad_last_state, boundaries)
    return grads


class _SlabBackward:
    """One slab's gradients, chunk by chunk."""

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        slab: Slab,
        grads: dict[str, Tensor],
        grad_out: Tensor,
        skip_apart: bool,
        work: Workspace,
    ) -> None:
        self.problem, self.plan, self.grads, self.work = problem, plan, grads, work
        self.inputs = inputs = SlabInputs(problem, plan, slab)
        self.skip_apart = skip_apart
        self.grad_out = inputs.part(grad_out, channels=True)
        self.sums_along_maps: dict[int, tuple[Tensor, Tensor]] = {}
        self.buffers: dict[tuple[int, int], _ChunkBackward] = {}
        # Sums over the slab's steps, by row.
        self.sums = {'A': work.get('sum_A', *inputs.state_shape).zero_()}
        for name, constant in (('B', inputs.B_constant), ('C', inputs.C_constant)):
            if constant is not None:
                self.sums[name] = work.get(f'sum_{name}', *inputs.state_shape).zero_()
        for name in ('delta_bias',) if skip_apart else ('D', 'delta_bias'):
            if name in grads:
                self.sums[name] = work.get(f'sum_{name}', *inputs.rows, inputs.channels).zero_()

    def run(self, grad_last_state: Tensor | None, boundaries: Tensor) -> None:
        inputs, work = self.inputs, self.work
        carry = work.get('carry', *inputs.state_shape)
        if grad_last_state is None:
            carry.zero_()
        else:
            carry.copy_(inputs.state(grad_last_state))
        for i in range(len(self.plan.chunks) - 1, -1, -1):
            chunk = self.plan.chunks[i]
            key = (chunk.steps, chunk.segments)
            if key not in self.buffers:
                self.buffers[key] = _ChunkBackward(self, *key)
            self.buffers[key].run(i, chunk, inputs.boundary(boundaries[i]), carry)
        if self.sums_along_maps:
            add_in_order(inputs.part(self.grads['u'], channels=True), self.sums_along_maps)
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
        return Writer(
            inputs.part(x, channels=name in ('u', 'delta')),
            orders,
            buffer,
            inputs.slab.backward,
            add=partial or (shared and (split or len(orders) > 1)) or (name == 'u' and self.skip_apart),
            sums=self.sums_along_maps if name == 'u' and inputs.d_state <= SMALL_STATE else None,
        )


class _ChunkBackward:
    """Buffers and operations for chunks of one shape."""

    def __init__(self, owner: _SlabBackward, steps: int, segments: int) -> None:
        inputs, work = owner.inputs, owner.work
        self.x = x = ChunkBuffers(inputs, work, steps, segments)
        d_state, channels = inputs.d_state, inputs.channels
        self.skip = None if owner.skip_apart else inputs.D

        self.dy = work.get('dy', *x.rows, channels)
        self.read_dy = Reader(owner.grad_out, inputs.followed, self.dy, inputs.slab.backward)
        self.g = work.get('g', *x.rows, d_state, channels)
        self.start_g = Outer(self.dy, x.C, inputs.C_constant, self.g)
        self._plan_scan(work, segments)

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

        all_steps = steps * segments
        self.ones = self.g.new_ones(all_steps)
        self.totals = {name: total.view(-1) for name, total in owner.sums.items()}
        self.terms = {
            name: buffer.view(all_steps, -1).t()
            for name, buffer in (
                ('A', self.scratch),
                ('B', product_B),
                ('C', self.g),
                ('D', self.row),
                ('delta_bias', self.ddelta),
            )
        }

    def _plan_scan(self, work: Workspace, segments: int) -> None:
        x = self.x
        # In the order of the forward scan; the gradient takes them from the last.
        g, a = ([buffer[t] for t in x.walk] for buffer in (self.g, x.decay))
        order = x.walk_segments
        self.after = work.get('after', segments, *x.inputs.state_shape)
        self.last_after, self.last_g = self.after[order[-1]], g[-1]
        self.steps = [(g[i - 1], a[i], g[i]) for i in range(len(g) - 1, 0, -1)]
        self.first = a[0][order[0]], g[0][order[0]]
        self.tries: list[tuple[Tensor, ...]] = []
        self.joints: list[tuple[Tensor, ...]] = []
        if segments > 1:
            first_g = run_through(work, g[::-1], a[:0:-1], self.tries)
            leaving = work.get('leaving', segments, *x.inputs.state_shape)
            self.leave = a[0], first_g, leaving
            self.joints = [
                (leaving[s], x.total_decay[s], self.after[s], self.after[before])
                for before, s in zip(order[-2::-1], order[:0:-1], strict=True)
            ]

    def run(self, number: int, chunk: Chunk, state: Tensor, carry: Tensor) -> None:
        """One chunk's gradients.

        Args:
            number, chunk: Which one.
            state: State before it, (K, b, G, N, C).
            carry: Gradient that reaches its last state from later chunks, (K, b, G, N, C); replaced by that which
                reaches the state before it.
        """
        x = self.x
        x.load(number, chunk)
        self.read_dy.read(number, chunk)
        x.find_starts(state)
        x.scan()

        if x.C is not None:
            self.contract_C.run()
            self.write_C.write(number, chunk)
        else:
            self.products_C.run()
            self._add_total('C')

        self.start_g.run()
        self._scan_back(carry)
        if x.B is not None:
            self.contract_B.run()
            self.write_B.write(number, chunk)
        else:
            self.products_B.run()
            self._add_total('B')
        self.project_B.run()

        self.g.mul_(x.decay).mul_(x.previous)  # now q
        self.project_A.run()
        self.ddelta.addcmul_(self.dv, x.u)
        self.products_A.run()
        self._add_total('A')
        if x.biased is not x.delta:
            self.ddelta.mul_(x.biased.sigmoid_())  # the slope of softplus
        self._add_total('delta_bias')
        self.write_delta.write(number, chunk)

        if 'D' in self.totals:
            torch.mul(self.dy, x.u, out=self.row)
            self._add_total('D')
        torch.mul(self.dv, self.delta_of_row, out=self.dv)
        if self.skip is not None:
            self.dv.addcmul_(self.dy, self.skip)
        self.write_u.write(number, chunk)

    def _add_total(self, name: str) -> None:
        if name in self.totals:
            self.totals[name].addmv_(self.terms[name], self.ones)

    def _scan_back(self, carry: Tensor) -> None:
        """g[t] = g[t] + decay[t+1] * g[t+1], see :meth:`run` for the carry."""
        self.last_after.copy_(carry)
        if self.joints:
            for g, a, following, out in self.tries:
                torch.addcmul(g, a, following, out=out)
            a, g, leaving = self.leave
            torch.mul(a, g, out=leaving)
            for leaving, decay, after, before in self.joints:
                torch.addcmul(leaving, decay, after, out=before)
        self.last_g.add_(self.after)
        for g, a, following in self.steps:
            g.addcmul_(a, following)
        a, g = self.first
        torch.mul(a, g, out=carry)
