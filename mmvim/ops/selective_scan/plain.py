"""The selective scan in plain PyTorch, chunk by chunk: exact on any device.

All paths, batch elements and channels take a step together. A chunk of T steps is gathered along the paths, scanned in
place and put back. The forward pass saves the state before every chunk; the backward pass takes the chunks from the
last to the first and computes their states again. With a = exp(delta * A), v = delta * u and g the gradient of h,

    g[t]   = C[t] * dy[t] + a[t+1] * g[t+1]         dC[t] = sum over channels of h[t] * dy[t]
    dv[t]  = sum over n of B[t] * g[t]              dB[t] = sum over channels of g[t] * v[t]
    q[t]   = g[t] * a[t] * h[t-1]                   dA    = sum over t of delta * q
    ddelta = u * dv + sum over n of A * q           du    = delta * dv + D * dy

Shapes: T steps, K paths, b batch, G groups, N states, C channels of a group.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.define import without_autocast
from mmvim.ops.selective_scan.arguments import ScanArguments, empty_rows
from mmvim.ops.selective_scan.operators import Implementation
from mmvim.ops.selective_scan.rows import Chunk, Rows

# By device type: state values of a chunk, and of a step below which segments of it take their steps together. A CPU
# keeps a chunk in its second-level cache and gains nothing by segments; elsewhere the number of operations matters.
TUNING = {'cpu': (1 << 17, 0), 'others': (1 << 25, 1 << 18)}


def cut(args: ScanArguments) -> list[Chunk]:
    """Cut L into chunks, by shapes and device type alone, so that results repeat bit for bit.

    With N steps a chunk, what is saved takes no more memory than u; where L is below N * N, somewhat more.
    """
    (batch, _, dim, _), d_state, length = args.u.shape, args.A.shape[-1], args.steps
    step = max(1, args.num_paths * batch * dim * d_state)
    values, join = TUNING.get(args.u.device.type, TUNING['others'])
    longest = max(4, min(d_state, isqrt(length)), values // step)
    chunks, start = [], 0
    while start < length:
        size = min(longest, length - start)
        # A step and a segment cost one operation each, so about equally many of both are fewest.
        segments = max(1, min(join // step, isqrt(size)))
        chunks.append(Chunk(start, size // segments, segments))
        start += chunks[-1].size
    return chunks


class Scan(Rows):
    """One call: the arithmetic of a chunk, forward and backward."""

    def __init__(self, args: ScanArguments) -> None:
        super().__init__(args)
        self.chunks = cut(args)
        self.d_state = args.A.shape[-1]
        self.A = self.constant(args.A).contiguous()
        self.step = (self.paths, self.batch, *self.A.shape[2:])  # (K, b, G, N, C)
        self.D, self.bias = (None if x is None else self.constant(x) for x in (args.D, args.delta_bias))

    def state(self, x: Tensor | None) -> Tensor:
        """Return (b, K, D, N) as (K, b, G, N, C), a view; zeros for None."""
        if x is None:
            return self.A.new_zeros(self.step)
        return x.unflatten(2, (self.groups, -1)).permute(1, 0, 2, 4, 3)

    def load(self, chunk: Chunk, carry: Tensor) -> tuple[Tensor, ...]:
        """Return u, delta before and after softplus, v, B, C, decay, states (T + 1, K, b, G, N, C) from carry on."""
        u, raw = self.read('u', self.rows['u'], chunk), self.read('delta', self.rows['delta'], chunk)
        raw = raw if self.bias is None else raw + self.bias
        delta = F.softplus(raw) if self.args.delta_softplus else raw  # (T, K, b, G, C)
        B, C = (
            self.read(name, self.rows[name], chunk).unsqueeze(-1)  # (T, K, b, G, N, 1)
            if name in self.rows
            else self.constant(getattr(self.args, name))  # (1, 1, G, N, C)
            for name in ('B', 'C')
        )
        decay = torch.mul(delta.unsqueeze(-2), self.A).exp_().expand(chunk.size, *self.step)
        states = decay.new_empty((chunk.size + 1, *self.step))
        states[0] = carry
        v = (delta * u).expand(chunk.size, *self.step[:3], -1)  # (T, K, b, G, C)
        torch.mul(v.unsqueeze(-2), B, out=states[1:])
        self.recur(states[1:], decay, delta, chunk, carry)
        return u, raw, delta, v, B, C, decay, states

    def recur(self, x: Tensor, decay: Tensor, delta: Tensor, chunk: Chunk, carry: Tensor, back: bool = False) -> Tensor:
        """Add ``decay[t] * x[t-1]`` to ``x[t]`` in place, from ``carry`` on; or, back, ``decay[t+1] * x[t+1]``.

        Where several segments take their steps together, from zero, what each lacks is added afterwards: the state that
        reaches it times its decay since. Return what leaves the chunk: ``x[-1]``, or, back, ``decay[0] * x[0]``.
        """
        cut_up = (chunk.segments, chunk.steps)
        x, decay = x.unflatten(0, cut_up), decay.unflatten(0, cut_up)  # (segments, steps, K, b, G, N, C)
        values, decays = x.unbind(1), decay.unbind(1)
        if chunk.segments == 1:
            values[-1 if back else 0].add_(carry if back else decays[0] * carry)
        order = slice(None, None, -1 if back else 1)  # the decay belongs to the later of two steps
        for after, a, before in zip(values[order][1:], decays[1:][order], values[order], strict=False):
            after.addcmul_(a, before)
        if chunk.segments > 1:
            since, span = delta.unflatten(0, cut_up), 1
            while span < chunk.steps:  # a running sum; PyTorch's own is an error in deterministic mode on a GPU
                since = torch.cat([since[:, :span], since[:, span:] + since[:, :-span]], 1)
                span *= 2
            since = since[:, -1:] - since if back else since
            passed = torch.mul(since.unsqueeze(-2), self.A).exp_()
            for s in reversed(range(chunk.segments)) if back else range(chunk.segments):
                x[s].addcmul_(passed[s], carry)
                carry = x[s, 0] * decay[s, 0] if back else x[s, -1]
            return carry
        return decays[0][0] * values[0][0] if back else values[-1][0]

    def outputs(self, u: Tensor, C: Tensor, states: Tensor) -> Tensor:
        """Return a chunk's outputs before the gate, (T, K, b, G, C)."""
        y = sum_states(C, states[1:])
        return y if self.D is None else y.addcmul_(u, self.D)

    def forward(self, y: Tensor, last_state: Tensor, boundaries: Tensor | None) -> None:
        """Fill ``y`` (b, 1|K, D, L), ``last_state`` (b, K, D, N) and ``boundaries`` (chunks, K, b, G, N, C)."""
        rows = self.as_rows('y', y, clear=True)
        carry = self.state(self.args.initial_state)
        for i, chunk in enumerate(self.chunks):
            if boundaries is not None:
                boundaries[i] = carry
            u, _, _, _, _, C, _, states = self.load(chunk, carry)
            self.write('y', rows, chunk, self.outputs(u, C, states))
            carry = states[-1]
        self.state(last_state).copy_(carry)

    def backward(self, grad_out: Tensor, grad_last_state: Tensor | None, boundaries: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all tensors, in the state's dtype, laid out by :func:`empty_rows`."""
        args, grad_y, slope = self.args, grad_out.to(self.args.A.dtype), None
        tensors = {name: x for name, x in args.tensors().items() if name != 'maps'}
        grads = {name: empty_rows(x, x.shape, args.A.dtype) for name, x in tensors.items()}
        rows = {name: self.as_rows(name, grads[name], clear=True) for name in self.rows}
        if args.z is not None:
            z = args.z.to(args.A.dtype)[:, None]
            gate = torch.sigmoid(z)
            slope = self.as_rows('y', grad_y * gate * (1 + z * (1 - gate)))  # derivative by z, without the factor y
            grad_y, rows['z'] = grad_y * z * gate, self.as_rows('y', grads['z'][:, None], clear=True)
        sums = {name: self.A.new_zeros((self.paths, 1, *self.A.shape[2:])) for name in ('A', 'B', 'C')}
        sums |= {name: self.A.new_zeros((self.paths, 1, self.groups, self.step[-1])) for name in ('D', 'delta_bias')}
        grad_rows = self.as_rows('y', grad_y)
        carry = self.state(grad_last_state)
        for i, chunk in reversed(list(enumerate(self.chunks))):
            u, raw, delta, v, B, C, decay, states = self.load(chunk, boundaries[i])
            dy = self.read('y', grad_rows, chunk)
            if slope is not None:
                self.write('y', rows['z'], chunk, self.outputs(u, C, states).mul_(self.read('y', slope, chunk)))
            g = (C * dy.unsqueeze(-2)).expand(decay.shape).contiguous()
            carry = self.recur(g, decay, delta, chunk, carry, back=True)
            for name, weight, x in (('C', states[1:], dy), ('B', g, v)):
                if name in rows:
                    self.write(name, rows[name], chunk, (weight * x.unsqueeze(-2)).sum(-1))
                else:
                    sums[name] += sum_steps(weight * x.unsqueeze(-2))
            dv = sum_states(B, g)
            q = g.mul_(decay).mul_(states[:-1])
            ddelta = sum_states(self.A, q).addcmul_(u, dv)
            sums['A'] += sum_steps(q * delta.unsqueeze(-2))
            if args.delta_softplus:
                ddelta *= torch.sigmoid(raw)
            if self.bias is not None:
                sums['delta_bias'] += sum_steps(ddelta)
            if self.D is not None:
                sums['D'] += sum_steps(dy * u)
            self.write('delta', rows['delta'], chunk, ddelta)
            du = dv.mul_(delta)
            self.write('u', rows['u'], chunk, du if self.D is None else du.addcmul_(dy, self.D))
        for name, total in sums.items():
            if name in grads and name not in rows:
                own = self.constant(grads[name])
                own.copy_(total if len(own) == self.paths else total.sum(0, keepdim=True))
        for name in [name for name in rows if rows[name].data_ptr() != grads[name].data_ptr()]:  # (K * L, b, G, N)
            grads[name].copy_(rows[name].unflatten(0, (-1, grads[name].shape[-1])).permute(2, 0, 3, 4, 1))
        if 'initial_state' in grads:
            self.state(grads['initial_state']).copy_(carry)
        return grads


def sum_steps(x: Tensor) -> Tensor:
    """Return the sum of (T, K, b, ...) over steps and batch, (K, 1, ...); over both at once is 20 times slower."""
    return x.sum(0).sum(1, keepdim=True)


def sum_states(weights: Tensor, states: Tensor) -> Tensor:
    """Return the sum over n of weights (..., N, 1 or C) * states (..., N, C), (..., C)."""
    if states.shape[-2] == 1:
        return (weights * states).squeeze(-2)
    if weights.shape[-1] == 1 and states.shape[-1] > 1 and weights.shape[0] == states.shape[0]:
        return torch.matmul(weights.transpose(-1, -2), states).squeeze(-2)
    return (weights * states).sum(-2)


def forward(args: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Run the forward pass: output, last state and, if ``save``, the states before the chunks."""
    with without_autocast(args.u):
        scan = Scan(args)
        shape = (scan.batch, args.num_paths if args.stack else 1, scan.dim, args.length)
        out = empty_rows(args.u, shape, args.out_dtype)
        last_state = empty_rows(args.A, (scan.batch, args.num_paths, scan.dim, scan.d_state))
        saved = args.A.new_empty(saved_size(args) if save else 0)
        # Sums and what a gate is to multiply need the state's precision.
        once = args.z is None and (args.stack or args.num_paths == 1)
        y = out if once or out.dtype == args.A.dtype else empty_rows(args.A, shape)
        scan.forward(y, last_state, _boundaries(args, saved) if save else None)
        if args.z is not None:
            y.mul_(F.silu(args.z.to(args.A.dtype))[:, None])
        if y is not out:
            out.copy_(y)
    return out if args.stack else out.squeeze(1), last_state, saved


def backward(args: ScanArguments, grad_out: Tensor, grad_last_state: Tensor | None, saved: Tensor) -> dict[str, Tensor]:
    """Run the backward pass: gradients by name."""
    grad_out = grad_out if args.stack else grad_out.unsqueeze(1)
    with without_autocast(args.u):
        grads = Scan(args).backward(grad_out, grad_last_state, _boundaries(args, saved))
    return {name: grad.to(getattr(args, name).dtype) for name, grad in grads.items()}


def saved_size(args: ScanArguments) -> int:
    """Return the number of values of the states before the chunks."""
    return len(cut(args)) * args.num_paths * args.u.shape[0] * args.A.shape[1] * args.A.shape[2]


def _boundaries(args: ScanArguments, saved: Tensor) -> Tensor:
    """Return the states before the chunks, (chunks, K, b, G, N, C), a view of what is saved."""
    rows = (args.num_paths, args.u.shape[0], args.groups, args.A.shape[-1], args.u.shape[2] // args.groups)
    return saved.view(len(cut(args)), *rows)


IMPLEMENTATION = Implementation(forward, backward, saved_size)
