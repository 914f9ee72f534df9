"""Backward pass of ``single_state.py``: chunks from the last to the first, states recomputed from stored boundaries.

The equations are those of ``backward.py`` without the sum over n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.selective_scan.chunk import Workspace
from mmvim.ops.selective_scan.plan import PathsPlan
from mmvim.ops.selective_scan.problem import Problem
from mmvim.ops.selective_scan.single_state import ChunkStates, PathPart, path_parts, set_to
from mmvim.ops.selective_scan.tree_scan import TreeScan
from mmvim.ops.selective_scan.whole import skip_backward


def backward(
    problem: Problem, plan: PathsPlan, grad_out: Tensor, grad_last_state: Tensor | None, boundaries: Tensor
) -> dict[str, Tensor]:
    """As :func:`mmvim.ops.selective_scan.backward.backward`."""
    # The first path sets the gradients of u and delta; where they are shared, the others add to them.
    grads = {
        name: (torch.empty_like if name in ('u', 'delta') else torch.zeros_like)(x, dtype=problem.dtype)
        for name, x in problem.differentiable().items()
    }
    skip_apart = problem.skips_alike()
    if skip_apart:
        grad_skip = skip_backward(grad_out, problem.u, problem.skip_weight(), grads['u'])
        grads['D'].add_(grad_skip * (problem.num_paths // problem.D.shape[0]))
    work = Workspace(problem.A)
    chunks: dict[tuple, _Chunk] = {}
    for part in path_parts(problem, plan):
        _PathBackward(part, grads, grad_out, skip_apart, work).run(grad_last_state, boundaries, chunks)
    return grads


class _PathBackward:
    """One path's gradients."""

    def __init__(
        self, part: PathPart, grads: dict[str, Tensor], grad_out: Tensor, skip_apart: bool, work: Workspace
    ) -> None:
        self.part, self.grads, self.work = part, grads, work
        problem = part.problem
        self.inputs = tuple(part.along(x) for x in (problem.delta, problem.u, problem.B, problem.C, grad_out))
        self.put_u, self.put_delta, self.put_B, self.put_C = (
            part.along(grads[name]).put for name in ('u', 'delta', 'B', 'C')
        )
        self.add_u = skip_apart or (part.path > 0 and problem.u.shape[1] == 1)
        self.add_delta = part.path > 0 and problem.delta.shape[1] == 1
        # Sums over the steps and the batch.
        names = ['A'] + [name for name in ('D', 'delta_bias') if name in grads and not (name == 'D' and skip_apart)]
        self.sums = {name: work.get(f'sum_{name}', *part.A.shape).zero_() for name in names}
        self.one = part.A.new_ones(())

    def run(self, grad_last_state: Tensor | None, boundaries: Tensor, chunks: dict[tuple, _Chunk]) -> None:
        part = self.part
        last, initial = (
            None if x is None else part.states(x) for x in (grad_last_state, self.grads.get('initial_state'))
        )
        starts = part.boundaries(boundaries)
        for block, batch, rows in part.blocks():
            carry = set_to(self.work.get('carry', *rows), last, batch)
            for i in part.numbers[::-1]:
                shape = part.walk.shapes[i]
                key = (rows, shape, part.descending)
                if key not in chunks:
                    chunks[key] = _Chunk(self.work, rows, shape, part.descending, carry)
                chunks[key].run(self, block, i, starts[i, batch])
            if initial is not None:
                initial[batch].copy_(carry)
        for name, total in self.sums.items():
            grad = self.grads[name]
            part.constant(grad[..., 0] if name == 'A' else grad).add_(total)


class _Chunk:
    """Buffers and operations for chunks of one shape.

    Args:
        work: Gives the buffers.
        rows: (b, G, C).
        shape: Runs and steps of the chunk.
        descending: Of the path.
        carry: (b, G, C), the gradient that reaches the chunk's last state from later chunks; replaced by that which
            reaches the state before it.
    """

    def __init__(
        self, work: Workspace, rows: tuple[int, int, int], shape: tuple[int, int], descending: bool, carry: Tensor
    ) -> None:
        steps = shape[0] * shape[1]
        # One step more: the states before the steps are those after them, shifted by one; and so is a for the
        # gradients, where the first to be taken has the next chunk's a in the carry already.
        g, row, delta, h, a = (
            work.get(name, rows[0], count, *rows[1:])
            for name, count in (('g', steps), ('row', steps), ('delta', steps), ('h', steps + 1), ('a', steps + 1))
        )
        early, late = slice(None, -1), slice(1, None)
        first, last = 0, -1
        if descending:
            early, late, first, last = late, early, last, first
        self.before, self.beyond, self.carry = h[:, first], a[:, last], carry
        self.states = ChunkStates(shape, descending, a[:, early], delta, h[:, late], self.before, row)
        self.scan_back = TreeScan(g, a[:, late], carry, not descending, row)
        self.leave = a[:, early][:, first], g[:, first]
        self.g, self.row, self.previous = (x.unflatten(1, shape) for x in (g, row, h[:, early]))
        self.ones = g.new_ones(rows[0] * steps)
        self.terms = {
            name: x.view(rows[0] * steps, -1).t() for name, x in (('A', delta), ('D', row), ('delta_bias', row))
        }

    def run(self, owner: _PathBackward, block: int, i: int, state: Tensor) -> None:
        """The gradients of chunk i of a block, from the state before it, (b, G, C)."""
        part, one, at = owner.part, owner.one, (block, i)
        g, row, a, delta = self.g, self.row, self.states.a, self.states.delta
        raw_delta, u, B, C, dy = (x.read(block, i) for x in owner.inputs)
        self.before.copy_(state)
        self.states.run(part, raw_delta, u, B)

        torch.mul(self.states.h, dy, out=row)
        owner.put_C(*at, row.sum(dim=-1, keepdim=True), one, add=True)
        if dy.stride(-1):
            torch.mul(dy, C, out=g)
        else:  # expanded, as that of a sum: PyTorch is slow at multiplying two operands that are both broadcast
            g.copy_(dy).mul_(C)
        self.beyond.fill_(1)
        self.scan_back.run()
        torch.mul(*self.leave, out=self.carry)

        torch.mul(g, delta, out=row)
        owner.put_u(*at, row, B, owner.add_u)
        row.mul_(u)
        owner.put_B(*at, row.sum(dim=-1, keepdim=True), one, add=True)
        if part.D is not None and not part.problem.skips_alike():
            owner.put_u(*at, dy, part.D, add=True)
            torch.mul(dy, u, out=row)
            self._add_sum(owner, 'D')

        torch.mul(g, u, out=row).mul_(B)
        g.mul_(a).mul_(self.previous)  # now q
        row.addcmul_(g, part.A)
        delta.mul_(g)
        self._add_sum(owner, 'A')
        slope = one
        if part.problem.delta_softplus:
            if part.delta_bias is not None:
                raw_delta = torch.add(raw_delta, part.delta_bias, out=g)
            slope = torch.sigmoid(raw_delta, out=delta)
        if 'delta_bias' in owner.sums:
            row.mul_(slope)
            self._add_sum(owner, 'delta_bias')
            slope = one
        owner.put_delta(*at, row, slope, owner.add_delta)

    def _add_sum(self, owner: _PathBackward, name: str) -> None:
        owner.sums[name].view(-1).addmv_(self.terms[name], self.ones)
