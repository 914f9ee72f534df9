"""The arithmetic of one chunk: discretise, scan, project. The forward and the backward pass share it.

Shapes: T steps, S segments, K paths, b batch, G groups, N states, C channels of a group. The buffers of a chunk and all
views of them are made once per chunk shape, for a view costs as much time as a small operation.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.selective_scan.access import Reader
from mmvim.ops.selective_scan.plan import Chunk
from mmvim.ops.selective_scan.problem import SlabInputs


class Workspace:
    """Memory of the chunk buffers, allocated at the largest size asked for and kept from slab to slab."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: dict[str, Tensor] = {}
        self._views: dict[tuple, Tensor] = {}

    def get(self, name: str, *shape: int) -> Tensor:
        """A dense buffer. Buffers of one name share their memory."""
        key = (name, *shape)
        if key not in self._views:
            numel = math.prod(shape)
            if name not in self._memory or self._memory[name].numel() < numel:
                self._memory[name] = self._like.new_empty(numel)
            self._views[key] = self._memory[name][:numel].view(shape)
        return self._views[key]


class ChunkBuffers:
    """Buffers for chunks of T steps x S segments of one slab, and what both passes do with them.

    Attributes:
        u, delta: (T, S, 1|K, b, G, C); delta is after bias and softplus.
        biased: delta before softplus.
        v: delta * u, (T, S, K, b, G, C).
        B, C: (T, S, K, b, G, N), or None where they are constant.
        decay: exp(delta * A), (T, S, 1|K, b, G, N, C).
        total_decay: That of a whole segment, (S, 1|K, b, G, N, C); only with several segments.
        before: State before each segment, (S, K, b, G, N, C).
        states, previous: After each step and before it, (T, S, K, b, G, N, C); they overlap.
        walk: The steps' numbers in the order in which they are taken.
        walk_segments: The segments' likewise.
    """

    def __init__(self, slab: SlabInputs, work: Workspace, steps: int, segments: int) -> None:
        self.inputs = slab
        self.lead = lead = (steps, segments)
        self.rows = rows = (*lead, *slab.rows)
        d_state, channels = slab.d_state, slab.channels
        backward = slab.slab.backward
        self.walk, self.walk_segments = ([*range(n - 1, -1, -1)] if backward else [*range(n)] for n in lead)
        self._readers: list[Reader] = []

        def read(name: str, paths: int, last: int) -> Tensor:
            buffer = work.get(name, *lead, paths, *slab.rows[1:], last)
            self._readers.append(Reader(getattr(slab, name), slab.orders[name], buffer, backward))
            return buffer

        self.u = read('u', slab.paths_read('u'), channels)
        self._raw = self.biased = read('delta', slab.paths_read('delta'), channels)
        if slab.delta_bias is not None and slab.delta_bias.shape[0] > self._raw.shape[2]:
            self.biased = work.get('biased', *rows, channels)
        self.delta = self.biased
        if slab.problem.delta_softplus:
            self.delta = work.get('softplus', *self.biased.shape)
        self.B = None if slab.B is None else read('B', slab.num_paths, d_state)
        self.C = None if slab.C is None else read('C', slab.num_paths, d_state)
        self.v = work.get('v', *rows, channels)
        self._delta_of_v = self.delta.expand(self.v.shape)
        self._delta_column = self.delta.unsqueeze(-2)

        decay_rows = (max(self.delta.shape[2], slab.A.shape[0]), *slab.rows[1:], d_state, channels)
        self.decay = work.get('decay', *lead, *decay_rows)
        h = work.get('h', steps + 1, segments, *slab.state_shape)
        self.before = h[-1] if backward else h[0]
        self.states, self.previous = (h[:-1], h[1:]) if backward else (h[1:], h[:-1])
        x, a, previous = (buffer.unbind(0) for buffer in (self.states, self.decay, self.previous))
        self._steps = [(x[t], a[t], previous[t]) for t in self.walk]
        self._last = x[self.walk[-1]][self.walk_segments[-1]]
        self._input = Outer(self.v, self.B, slab.B_constant, self.states)

        self._first = self.before[self.walk_segments[0]]
        self._tries: list[tuple[Tensor, ...]] = []
        self._joints: list[tuple[Tensor, ...]] = []
        if segments > 1:
            self.total_decay = work.get('total_decay', segments, *decay_rows)
            self._total_delta = work.get('total_delta', *self.delta.shape[1:])
            ends = run_through(work, [x[t] for t in self.walk], [a[t] for t in self.walk[1:]], self._tries)
            order = self.walk_segments
            self._joints = [
                (self.before[s], self.total_decay[s], ends[s], self.before[following])
                for s, following in pairwise(order)
            ]

    def load(self, number: int, chunk: Chunk) -> None:
        """Read the inputs and discretise them: u, delta, v, B, C, decay, and delta * B * u in place of the states."""
        for reader in self._readers:
            reader.read(number, chunk)
        if self.inputs.delta_bias is not None:
            torch.add(self._raw, self.inputs.delta_bias, out=self.biased)
        if self.inputs.problem.delta_softplus:
            softplus(self.biased, out=self.delta)
        torch.mul(self._delta_of_v, self.u, out=self.v)
        torch.mul(self._delta_column, self.inputs.A, out=self.decay)
        torch.exp(self.decay, out=self.decay)
        if self._joints:
            torch.sum(self.delta, dim=0, out=self._total_delta)
            torch.mul(self._total_delta.unsqueeze(-2), self.inputs.A, out=self.total_decay)
            torch.exp(self.total_decay, out=self.total_decay)
        self._input.run()

    def find_starts(self, carry: Tensor) -> None:
        """Fill `before` from the state before the chunk, (K, b, G, N, C)."""
        self._first.copy_(carry)
        for x, a, end, out in self._tries:
            torch.addcmul(x, a, end, out=out)
        for before, decay, end, following in self._joints:
            torch.addcmul(end, decay, before, out=following)

    def scan(self) -> Tensor:
        """h[t] = h[t] + decay[t] * h[t-1] from `before`; the last state, (K, b, G, N, C)."""
        for h, a, previous in self._steps:
            h.addcmul_(a, previous)
        return self._last


def run_through(work: Workspace, x: list[Tensor], a: list[Tensor], steps: list[tuple[Tensor, ...]]) -> Tensor:
    """Plan e = x[i] + a[i-1] * e from e = x[0] without touching x: two small buffers take turns, and stay in cache.

    Args:
        work: Gives the buffers.
        x: (S, K, b, G, N, C) each.
        a: One less.
        steps: Receives (x[i], a[i-1], e, e).

    Returns:
        The buffer that holds the last e.
    """
    end = x[0]
    turns = [work.get(name, *end.shape) for name in ('turn0', 'turn1')]
    for i in range(1, len(x)):
        steps.append((x[i], a[i - 1], end, turns[i % 2]))
        end = turns[i % 2]
    return end


def softplus(x: Tensor, out: Tensor) -> None:
    """log(1 + exp(x)) into another tensor, by the operations that are fast on a CPU."""
    if x.device.type != 'cpu':
        out.copy_(F.softplus(x))
        return
    torch.clamp(x, max=20.0, out=out)
    out.exp_().log1p_()
    torch.maximum(out, x, out=out)  # beyond 20 it is x to the last bit of float32


class Outer:
    """values[c] * weights[n], state-sized.

    Args:
        values: (T, S, 1|K, b, G, C).
        weights: (T, S, K, b, G, N), or None where `constant`, whatever meets `out` by broadcasting, is given.
        out: (T, S, K, b, G, N, C).
    """

    def __init__(self, values: Tensor, weights: Tensor | None, constant: Tensor | None, out: Tensor) -> None:
        self._values = values.unsqueeze(-2).expand(out.shape)
        self._weights = constant if weights is None else weights.unsqueeze(-1)
        self._out = out

    def run(self) -> None:
        torch.mul(self._values, self._weights, out=self._out)


class Project:
    """Sum over n of weights[n] * states[n, c].

    Args:
        states: (T, S, K, b, G, N, C).
        weights: (T, S, K, b, G, N), or None where `constant` (1|K, 1, G, N, C) is given.
        out: (T, S, K, b, G, C).
        scratch: State-sized buffer for the product with a constant; may be `states`.
    """

    def __init__(
        self, states: Tensor, weights: Tensor | None, constant: Tensor | None, out: Tensor, scratch: Tensor
    ) -> None:
        d_state, channels = states.shape[-2:]
        self._states, self._out, self._constant, self._scratch = states, out, constant, scratch
        self._squeeze = d_state == 1
        if weights is None:
            source = scratch
            weights = states.new_ones(1)
        else:
            source = states
        if self._squeeze:
            self._weights, self._flat, self._flat_out = weights, source.squeeze(-2), out
        else:
            self._weights = (
                weights.reshape(-1, 1, d_state)
                if self._constant is None
                else states.new_ones(states.shape[:-2].numel(), 1, d_state)
            )
            self._flat, self._flat_out = source.flatten(0, 4), out.view(-1, 1, channels)

    def run(self) -> None:
        if self._constant is not None:
            torch.mul(self._states, self._constant, out=self._scratch)
        if self._squeeze:
            torch.mul(self._flat, self._weights, out=self._flat_out)
        else:
            torch.bmm(self._weights, self._flat, out=self._flat_out)


class Contract:
    """Sum over c of states[n, c] * values[c].

    Args:
        states: (T, S, K, b, G, N, C).
        values: (T, S, K, b, G, C).
        out: (T, S, K, b, G, N).
        scratch: (T, S, K, b, G, C), used where N is 1.
    """

    def __init__(self, states: Tensor, values: Tensor, out: Tensor, scratch: Tensor) -> None:
        d_state, channels = states.shape[-2:]
        self._squeeze = d_state == 1
        if self._squeeze:
            self._states, self._values, self._out, self._scratch = states.squeeze(-2), values, out, scratch
        else:
            self._states = states.flatten(0, 4).transpose(1, 2)
            self._values, self._out = values.view(-1, 1, channels), out.view(-1, 1, d_state)

    def run(self) -> None:
        if self._squeeze:
            torch.mul(self._states, self._values, out=self._scratch)
            torch.sum(self._scratch, dim=-1, keepdim=True, out=self._out)
        else:
            torch.bmm(self._values, self._states, out=self._out)
