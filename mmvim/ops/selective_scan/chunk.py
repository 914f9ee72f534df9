"""The arithmetic of one chunk: discretise, scan, project. The forward and the backward pass share it.

Shapes: T steps, S segments, K paths, b batch, G groups, N states, C channels of a group. The buffers of a chunk and all
views of them are made once per chunk shape, for a view costs as much time as a small operation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.selective_scan.access import ChunkIndex, Reader
from mmvim.ops.selective_scan.plan import Chunk
from mmvim.ops.selective_scan.problem import SlabInputs, orders_of


class Workspace:
    """Memory of the chunk buffers, allocated at the largest size asked for and kept from slab to slab."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int) -> Tensor:
        """A dense buffer. Buffers of one name share their memory."""
        numel = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < numel:
            self._memory[name] = self._like.new_empty(numel)
        return self._memory[name][:numel].view(shape)


class ChunkBuffers:
    """Buffers for chunks of T steps x S segments of one slab, and what both passes do with them.

    Attributes:
        u, delta: (T, S, 1|K, b, G, C); delta is after bias and softplus.
        biased: delta before softplus; the same buffer as delta unless the backward pass needs both.
        v: delta * u, (T, S, K, b, G, C).
        B, C: (T, S, K, b, G, N), or None where they are constant.
        decay: exp(delta * A), (T, S, 1|K, b, G, N, C).
        h: States, (T + 1, S, K, b, G, N, C): before each segment, and after each of its steps.
    """

    def __init__(self, slab: SlabInputs, work: Workspace, steps: int, segments: int, for_backward: bool) -> None:
        self.slab = slab
        self.lead = lead = (steps, segments)
        self.rows = rows = (*lead, *slab.rows)
        self.segments = segments
        d_state, channels = slab.d_state, slab.channels
        self.readers: list[Reader] = []

        def read(name: str, x: Tensor, paths: int, last: int) -> Tensor:
            buffer = work.get(name, *lead, paths, *slab.rows[1:], last)
            self.readers.append(Reader(x, slab.orders[name], buffer))
            return buffer

        self.u = read('u', slab.u, orders_of(slab.orders['u'], slab.u.shape[1], slab.num_paths), channels)
        raw = read('delta', slab.delta, orders_of(slab.orders['delta'], slab.delta.shape[1], slab.num_paths), channels)
        self._raw = self.biased = raw
        if slab.delta_bias is not None and slab.delta_bias.shape[0] > raw.shape[2]:
            self.biased = work.get('biased', *rows, channels)
        self.delta = self.biased
        if for_backward and slab.problem.delta_softplus:
            self.delta = work.get('softplus', *self.biased.shape)
        self.B = None if slab.B is None else read('B', slab.B, slab.num_paths, d_state)
        self.C = None if slab.C is None else read('C', slab.C, slab.num_paths, d_state)
        self.v = work.get('v', *rows, channels)
        self._delta_of_v = self.delta.expand(self.v.shape)
        self._delta_column = self.delta.unsqueeze(-2)

        paths = max(self.delta.shape[2], slab.A.shape[0])
        self.decay = work.get('decay', *lead, paths, *slab.rows[1:], d_state, channels)
        self.h = work.get('h', steps + 1, segments, *slab.state_shape)
        h, a = self.h.unbind(0), self.decay.unbind(0)
        self.before, self.states = h[0], self.h[1:]
        self._last = h[-1]
        self._input = Outer(self.v, self.B, slab.B_constant, self.states)
        if segments == 1:
            self._steps = list(zip(h[1:], a, h[:-1], strict=True))
            return
        # The product of decays since the segment's start. Where the decays themselves are not needed again, in place.
        self.product = work.get('product', *self.decay.shape) if for_backward else self.decay
        p = self.product.unbind(0)
        self._first = [] if self.product is self.decay else [(a[0], p[0])]
        self._steps = list(zip(h[2:], a[1:], h[1:-1], strict=True))
        self._products = list(zip(a[1:], p[:-1], p[1:], strict=True))
        before = h[0].unbind(0)
        self._before = before[0]
        self._joints = list(zip(before[1:], before[:-1], p[-1].unbind(0)[:-1], h[-1].unbind(0)[:-1], strict=True))

    def load(self, chunk: Chunk, index: ChunkIndex) -> None:
        """Read the inputs and discretise them: u, delta, v, B, C, decay, and delta * B * u in place of the states."""
        for reader in self.readers:
            reader.read(chunk, index)
        if self.slab.delta_bias is not None:
            torch.add(self._raw, self.slab.delta_bias, out=self.biased)
        if self.slab.problem.delta_softplus:
            softplus(self.biased, out=self.delta)
        torch.mul(self._delta_of_v, self.u, out=self.v)
        torch.mul(self._delta_column, self.slab.A, out=self.decay)
        torch.exp(self.decay, out=self.decay)
        self._input.run()

    def scan(self, carry: Tensor) -> None:
        """h[t] = h[t] + decay[t] * h[t-1], from the carry (K, b, G, N, C), which is then the last state."""
        if self.segments == 1:
            self.before.copy_(carry)
            for h, a, previous in self._steps:
                h.addcmul_(a, previous)
            carry.copy_(self._last[0])
            return
        for a, p in self._first:
            p.copy_(a)
        for h, a, previous in self._steps:
            h.addcmul_(a, previous)
        for a, previous, p in self._products:
            torch.mul(a, previous, out=p)
        self._before.copy_(carry)
        for following, before, p, last in self._joints:
            torch.addcmul(last, p, before, out=following)
        self.states.addcmul_(self.product, self.before)
        carry.copy_(self._last[-1])


def softplus(x: Tensor, out: Tensor) -> None:
    """log(1 + exp(x)) by the operations that PyTorch has fast on a CPU; `out` may be `x` only if not needed again."""
    if x.device.type != 'cpu':
        out.copy_(F.softplus(x))
        return
    w = torch.clamp(x, max=20.0)
    w.exp_().log1p_()
    torch.maximum(w, x, out=out)  # beyond 20 it is x to the last bit


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

    def __init__(self, states: Tensor, weights: Tensor | None, constant: Tensor | None, out: Tensor, scratch: Tensor
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
            self._weights = weights.reshape(-1, 1, d_state) if self._constant is None else \
                states.new_ones(states.shape[:-2].numel(), 1, d_state)
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
