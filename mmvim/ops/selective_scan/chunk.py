"""The arithmetic of one chunk: discretise, scan, project. Forward and backward passes share it.

Shapes: T steps, S segments, K paths, b batch, G groups, N states, C channels of a group. State-sized buffers are
(T, S, K, b, G, N, C); those of decays have 1 for K where all paths share them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.selective_scan.access import ChunkIndex
from mmvim.ops.selective_scan.plan import Chunk
from mmvim.ops.selective_scan.problem import SlabInputs


class Workspace:
    """Buffers of a slab's chunks, allocated at their largest and handed out as views.

    A buffer comes with the list of its steps: taking a view costs as much as a small operation.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self._memory: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], tuple[Tensor, tuple[Tensor, ...]]] = {}

    def get(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The buffer `name` in `shape`, and its slices along the first axis. Its former contents are lost."""
        key = (name, shape)
        if key not in self._views:
            numel = math.prod(shape)
            if name not in self._memory or self._memory[name].numel() < numel:
                self._memory[name] = self.like.new_empty(numel)
                self._views = {k: v for k, v in self._views.items() if k[0] != name}
            buffer = self._memory[name][:numel].view(shape)
            self._views[key] = buffer, buffer.unbind(0)
        return self._views[key]


class ChunkInputs:
    """What a chunk reads, in state dtype: u, delta (after bias and softplus), B, C."""

    __slots__ = ('B', 'C', 'delta', 'u')

    def __init__(self, slab: SlabInputs, chunk: Chunk, index: ChunkIndex) -> None:
        self.u = slab.u.read(chunk, index)
        delta = slab.delta.read(chunk, index)
        if slab.delta_bias is not None:
            if slab.delta_bias.shape[0] > delta.shape[2]:
                delta = delta + slab.delta_bias
            else:
                delta.add_(slab.delta_bias)
        if slab.problem.delta_softplus:
            F.softplus(delta, out=delta)
        self.delta = delta
        self.B = None if slab.B is None else slab.B.read(chunk, index)
        self.C = None if slab.C is None else slab.C.read(chunk, index)


def decays(slab: SlabInputs, x: ChunkInputs, work: Workspace) -> tuple[Tensor, tuple[Tensor, ...]]:
    """exp(delta * A), (T, S, 1|K, b, G, N, C), and its steps."""
    steps, segments, paths = x.delta.shape[:3]
    paths = max(paths, slab.A.shape[0])
    a, a_steps = work.get('decay', (steps, segments, paths, *slab.rows[1:], slab.d_state, slab.channels))
    torch.mul(x.delta.unsqueeze(-2), slab.A, out=a)
    torch.exp(a, out=a)
    return a, a_steps


def outer(values: Tensor, weights: Tensor | None, constant: Tensor | None, out: Tensor) -> None:
    """weights[n] * values[c] into `out`, state-sized; `values` (T, S, 1|K, b, G, C), weights as in :func:`project`."""
    values = values.unsqueeze(-2).expand(-1, -1, out.shape[2], -1, -1, -1, -1)
    torch.mul(values, constant if weights is None else weights.unsqueeze(-1), out=out)


def project(states: Tensor, weights: Tensor | None, constant: Tensor | None, scratch: Tensor | None = None) -> Tensor:
    """Sum over n of weights[n] * states[n, c], (T, S, K, b, G, C).

    Args:
        states: (T, S, K, b, G, N, C).
        weights: (T, S, 1|K, b, G, N), or None where `constant` (1|K, 1, G, N, C) is given.
        scratch: State-sized buffer that may be overwritten.
    """
    if weights is None:
        return torch.mul(states, constant, out=scratch).sum(dim=-2)
    *rows, d_state, channels = states.shape
    if d_state == 1:
        return states.squeeze(-2) * weights
    weights = weights.expand(*rows, d_state).reshape(-1, 1, d_state)
    return torch.bmm(weights, states.reshape(-1, d_state, channels)).view(*rows, channels)


def contract(states: Tensor, values: Tensor) -> Tensor:
    """Sum over c of states[n, c] * values[c], (T, S, K, b, G, N); `values` are (T, S, 1|K, b, G, C)."""
    *rows, d_state, channels = states.shape
    if d_state == 1:
        return (states.squeeze(-2) * values).sum(dim=-1, keepdim=True)
    values = values.expand(*rows, channels).reshape(-1, 1, channels)
    return torch.bmm(values, states.reshape(-1, d_state, channels).transpose(1, 2)).view(*rows, d_state)


def scan_forward(carry: Tensor, x: tuple[Tensor, ...], a: tuple[Tensor, ...], product: tuple[Tensor, ...] | None,
                 ) -> Tensor | None:
    """h[t] = x[t] + a[t] * h[t-1], in place of x.

    Args:
        carry: State before the chunk, (K, b, G, N, C).
        x: Steps, (S, K, b, G, N, C) each, overwritten by the states.
        a: Decays, (S, 1|K, b, G, N, C) each.
        product: With several segments, buffers for the decay since the segment's start; may be `a` itself.

    Returns:
        With several segments, the state before each of them, (S, K, b, G, N, C); else None.
    """
    if product is None:
        x[0].addcmul_(a[0], carry)
        for t in range(1, len(x)):
            x[t].addcmul_(a[t], x[t - 1])
        return None
    if product is not a:
        product[0].copy_(a[0])
    for t in range(1, len(x)):
        x[t].addcmul_(a[t], x[t - 1])
        torch.mul(a[t], product[t - 1], out=product[t])
    before = torch.empty_like(x[0])
    h = carry
    for s in range(before.shape[0]):
        before[s].copy_(h)
        h = torch.addcmul(x[-1][s], product[-1][s], h)
    return before


def scan_backward(carry: Tensor, g: tuple[Tensor, ...], a: tuple[Tensor, ...], product: tuple[Tensor, ...] | None,
                  ) -> tuple[Tensor, Tensor | None]:
    """g[t] = c[t] + a[t+1] * g[t+1], in place of c, where a[T] * g[T] is the carry.

    Args:
        carry: Gradient that reaches the chunk's last state from later chunks, (K, b, G, N, C).
        g: Steps, (S, K, b, G, N, C) each, overwritten by the gradients of the states.
        a: Decays, (S, 1|K, b, G, N, C) each.
        product: With several segments, buffers for the decay from a step to its segment's last; not `a`.

    Returns:
        The carry of the chunk before; and with several segments the gradient that reaches each segment's last state
        from later ones, (S, K, b, G, N, C), else None.
    """
    last = len(g) - 1
    if product is None:
        g[last].add_(carry)
        for t in range(last, 0, -1):
            g[t - 1].addcmul_(a[t], g[t])
        return (a[0] * g[0]).squeeze(0), None
    product[last].fill_(1)
    for t in range(last, 0, -1):
        g[t - 1].addcmul_(a[t], g[t])
        torch.mul(a[t], product[t], out=product[t - 1])
    after = torch.empty_like(g[0])
    for s in range(after.shape[0] - 1, -1, -1):
        after[s].copy_(carry)
        carry = torch.addcmul(g[0][s], product[0][s], carry).mul_(a[0][s])
    return carry, after
