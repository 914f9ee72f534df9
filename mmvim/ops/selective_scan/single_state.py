"""The scan where N is 1, as in VMamba, on a CPU: a path after the other, and everything as operations on few buffers.

The time then goes into reading and writing. So inputs are read, and outputs and gradients are added to, in the place
where they are, and a chunk has no buffer that it can do without. With N = 1 the state has the shape of u:

    h[t] = a[t] * h[t-1] + v[t] * B[t],    a[t] = exp(delta[t] * A),    v[t] = delta[t] * u[t],    y[t] = C[t] * h[t]

Shapes: b batch elements of a block, T steps, G groups, C channels of a group. What follows the path comes as
(b, runs, steps, G, C), see ``walk.py``; buffers are (b, T, G, C), and the same memory seen in that way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mmvim.ops.selective_scan.chunk import Workspace, softplus
from mmvim.ops.selective_scan.plan import PathsPlan
from mmvim.ops.selective_scan.problem import Problem
from mmvim.ops.selective_scan.tree_scan import TreeScan
from mmvim.ops.selective_scan.walk import Followed, Walk
from mmvim.ops.selective_scan.whole import skip


class PathPart:
    """One path's part of the problem for a range of the channels of each group, as views."""

    def __init__(self, problem: Problem, walk: Walk, path: int, channels: slice) -> None:
        self.problem, self.walk, self.path, self.channels = problem, walk, path, channels
        self.descending = problem.reverse[path]
        self.numbers = range(len(self.walk.shapes))
        if self.descending:
            self.numbers = self.numbers[::-1]
        self.A = self.constant(problem.A[..., 0])
        self.D = None if problem.D is None else self.constant(problem.D)
        self.delta_bias = None if problem.delta_bias is None else self.constant(problem.delta_bias)

    def blocks(self) -> Iterator[tuple[int, slice, tuple[int, int, int]]]:
        """Each block's number, its batch elements, and the shape (b, G, C) of its states."""
        batch, size = self.problem.u.shape[0], self.walk.batch
        for number, start in enumerate(range(0, batch, size)):
            stop = min(start + size, batch)
            yield number, slice(start, stop), (stop - start, *self.A.shape)

    def along(self, x: Tensor) -> Followed:
        """A tensor (batch, 1|K, D, L) or (batch, 1|K, G, 1, L) along the path."""
        x = x[:, self.path if x.shape[1] > 1 else 0]
        if x.dim() == 3:
            x = x.unflatten(1, (self.problem.groups, x.shape[1] // self.problem.groups))[:, :, self.channels]
        return Followed(x.permute(0, 3, 1, 2), self.walk, self.problem.dtype)

    def constant(self, x: Tensor) -> Tensor:
        """The path's part of (1|K, D) as (G, C), a view."""
        return x[self.path if x.shape[0] > 1 else 0].unflatten(0, (self.problem.groups, -1))[:, self.channels]

    def states(self, x: Tensor) -> Tensor:
        """(batch, K, D, 1) as (batch, G, C), a view."""
        return x[:, self.path, :, 0].unflatten(1, (self.problem.groups, -1))[..., self.channels]

    def boundaries(self, x: Tensor) -> Tensor:
        """States before the chunks, (chunks, K, batch, G, 1, D/G), as (chunks, batch, G, C), a view."""
        return x[:, self.path, :, :, 0, self.channels]


def path_parts(problem: Problem, plan: PathsPlan) -> Iterator[PathPart]:
    """All paths in order, for one range of channels after the other."""
    walks = {
        i: Walk(problem.length, None if i < 0 else problem.maps[i], plan.steps, plan.batch)
        for i in set(problem.map_ids)
    }
    for channels in plan.channels:
        for path, i in enumerate(problem.map_ids):
            yield PathPart(problem, walks[i], path, channels)


class ChunkStates:
    """Discretise and scan chunks of one shape.

    Args:
        shape: Runs and steps of the chunks.
        descending: Of the path.
        a: (b, T, G, C), receives exp(delta * A).
        delta: Likewise, receives delta after bias and softplus.
        h: Likewise, receives the states; may be `delta`.
        before: State before the chunk, (b, G, C).
        products: See :class:`TreeScan`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        descending: bool,
        a: Tensor,
        delta: Tensor,
        h: Tensor,
        before: Tensor,
        products: Tensor | None = None,
    ) -> None:
        self.a, self.delta, self.h = (x.unflatten(1, shape) for x in (a, delta, h))
        self._scan = TreeScan(h, a, before, descending, products)
        self.last = self._scan.last

    def run(self, part: PathPart, raw_delta: Tensor, u: Tensor, B: Tensor) -> None:
        """From the chunks of the inputs; `raw_delta` is before bias and softplus."""
        a, delta, h = self.a, self.delta, self.h
        if part.delta_bias is not None:
            raw_delta = torch.add(raw_delta, part.delta_bias, out=a)
        if part.problem.delta_softplus:
            softplus(raw_delta, out=delta)
        else:
            delta.copy_(raw_delta)
        torch.mul(delta, part.A, out=a).exp_()
        torch.mul(delta, u, out=h).mul_(B)
        self._scan.run()


def forward(problem: Problem, plan: PathsPlan, out: Tensor, last_state: Tensor, boundaries: Tensor | None) -> None:
    """As :func:`mmvim.ops.selective_scan.forward.forward`."""
    skip_apart = problem.skips_alike()
    if skip_apart:
        skip(problem.u, problem.skip_weight(), out)
    work = Workspace(problem.A)
    chunks: dict[tuple, ChunkStates] = {}
    one = problem.A.new_ones(())
    for part in path_parts(problem, plan):
        # The first path sets the output.
        add = skip_apart or (part.path > 0 and out.shape[1] == 1)
        u, delta, B, C, y = (part.along(x) for x in (problem.u, problem.delta, problem.B, problem.C, out))
        last = part.states(last_state)
        initial = None if problem.initial_state is None else part.states(problem.initial_state)
        starts = None if boundaries is None else part.boundaries(boundaries)
        for block, batch, rows in part.blocks():
            carry = set_to(work.get('carry', *rows), initial, batch)
            for i in part.numbers:
                shape = part.walk.shapes[i]
                key = (rows, shape, part.descending)
                if key not in chunks:
                    a, h = (work.get(name, rows[0], shape[0] * shape[1], *rows[1:]) for name in 'ah')
                    chunks[key] = ChunkStates(shape, part.descending, a, h, h, carry)
                chunk = chunks[key]
                if starts is not None:
                    starts[i, batch].copy_(carry)
                u_chunk, C_chunk = u.read(block, i), C.read(block, i)
                chunk.run(part, delta.read(block, i), u_chunk, B.read(block, i))
                carry.copy_(chunk.last)
                if part.D is not None and not skip_apart:
                    chunk.h.mul_(C_chunk).addcmul_(u_chunk, part.D)
                    C_chunk = one
                y.put(block, i, chunk.h, C_chunk, add)
            last[batch].copy_(carry)


def set_to(carry: Tensor, states: Tensor | None, batch: slice) -> Tensor:
    """Set `carry` (b, G, C) to its block of the states (batch, G, C), or to zero."""
    return carry.zero_() if states is None else carry.copy_(states[batch])
