"""The bidirectional WKV in plain PyTorch, on any device, in linear time.

Sums over exponentials are held as ``values * exp(scale)``, the scale being the largest exponent in the sum, so they
neither overflow nor vanish: the running maximum of RWKV (Peng et al., https://arxiv.org/abs/2305.13048, appendix). The
scale only labels the values: rounding it changes nothing, as long as the values are rescaled by what it really became.

Tokens are cut into segments, which take their steps together: (B, T, C) becomes (B, S, n, C). Sums are ``values``
(K, B, S, n, C) with ``scale`` (B, S, n, C): of the weights alone, and of the weights times v. At each token there are

- near: over the tokens before it; for the published kernel those of its own segment alone.
- far: over the tokens after it.
- others: over the tokens before it in other segments, and grown: with a growing weight, over those before it in its
  own. Only the published kernel has them.

The gradient needs the same sums over the gradients, with "before" and "after" exchanged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.bi_wkv.operators import Implementation
from mmvim.ops.define import without_autocast

LOWEST = -1e30  # the exponent of nothing; infinity less infinity would be NaN
LARGE = 30.0  # a decay for a token beyond which exp(decay) is kept as an exponent


class Sums(NamedTuple):
    """Numbers ``values * exp(scale)``, values (K, ...) and scale (...)."""

    values: Tensor
    scale: Tensor


class Mixed(NamedTuple):
    """The sums at each token, and their total with its weights."""

    near: Sums
    far: Sums
    others: Sums | None
    grown: Sums | None
    total: Sums


def _product(decay: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``decay * count`` as a sum of two numbers, without rounding."""
    wide = decay * (1 + 2 ** (12 if decay.dtype == torch.float32 else 27))
    high = wide - (wide - decay)  # the upper half of the digits
    high = torch.where(high.isfinite(), high, decay)
    return high * count, (decay - high) * count


def _plus(a: Tensor, b: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return ``a + b`` and what it lacks for being rounded (Knuth's two-sum)."""
    total = a + b
    taken = total - a
    return total, (a - (total - taken)) + (b - taken)


def _step(sums: Sums, x: Tensor, e: Tensor, high: Tensor, low: Tensor) -> Sums:
    """Let sums fall off by ``exp(-high - low)``, and add ``x * exp(e)``."""
    fallen, lack = _plus(sums.scale, -high)
    scale = torch.maximum(fallen - low, e)
    kept = torch.exp((fallen - scale + (lack - low)).clamp(max=1.0))  # above 0 by rounding, or where there is nothing
    return Sums(torch.addcmul(sums.values * kept, x, torch.exp(e - scale)), scale)


def _sweep(x: Sums, decay: tuple[Tensor, Tensor], start: Sums, back: bool) -> tuple[Sums, Sums]:
    """Sum along the last axis but one: the sums before each step (after it, if back), and those at the end."""
    steps = x.scale.shape[-2]
    values = x.values.new_empty((len(start.values), *x.values.shape[1:]))
    scale, sums = torch.empty_like(x.scale), start
    for t in reversed(range(steps)) if back else range(steps):
        values[..., t, :], scale[..., t, :] = sums
        sums = _step(sums, x.values[..., t, :], x.scale[..., t, :], *decay)
    return Sums(values, scale), sums


def _nothing(x: Sums, axis: int = -2) -> Sums:
    """Return empty sums for a sweep over an axis."""
    return Sums(torch.zeros_like(x.values.select(axis, 0)), torch.full_like(x.scale.select(axis, 0), LOWEST))


def _across(x: Sums, decay: Tensor, back: bool) -> Sums:
    """Sum over all tokens before each one (after it, if back): (K, B, S, n, C)."""
    one = _product(decay, 1)
    _, ends = _sweep(x, one, _nothing(x), back)  # (K, B, S, C)
    start, _ = _sweep(ends, _product(decay, x.scale.shape[-2]), _nothing(ends), back)
    return _sweep(x, one, start, back)[0]


def _apart(x: Sums, decay: Tensor, back: bool) -> tuple[Sums, Sums]:
    """Sum over the tokens before each one in its segment, and over those in others, as if one step further away."""
    one = _product(decay, 1)
    own, ends = _sweep(x, one, _nothing(x), back)  # (K, B, S, n, C), (K, B, S, C)
    start, _ = _sweep(ends, _product(decay, x.scale.shape[-2]), _nothing(ends), back)
    empty = Sums(torch.zeros_like(x.values), torch.full_like(x.scale, LOWEST))
    start = _step(start, *_nothing(empty), *one)
    return own, _sweep(empty, one, start, back)[0]


def _add(*terms: tuple[Sums, Tensor | float]) -> Sums:
    """Add sums, each times ``exp(extra)``."""
    scales = [_plus(sums.scale, extra) for sums, extra in terms]
    top = torch.stack([scale for scale, _ in scales]).amax(0)
    total = torch.zeros_like(terms[0][0].values)
    for (sums, _), (scale, lack) in zip(terms, scales, strict=True):
        total += sums.values * torch.exp((scale - top) + lack)
    return Sums(total, top)


def _dot(a: Sums, b: Sums, extra: Tensor | float) -> Tensor:
    """Return the sum over batch and tokens of (a[0] b[1] - a[1] b[0]) exp(extra), (C,)."""
    products = a.values[0] * b.values[1] - a.values[1] * b.values[0]
    scale, lack = _plus(a.scale, b.scale)
    scale, more = _plus(scale, extra)
    return (products * torch.exp(scale + (lack + more))).sum((0, 1, 2))


class Problem:
    """Decay and bonus (C,), and how T tokens are cut."""

    def __init__(self, decay: Tensor, bonus: Tensor, length: int, published: bool) -> None:
        self.decay, self.bonus, self.length, self.published = decay, bonus, length, published
        self.steps = -(-length // 32) if published else math.isqrt(length - 1) + 1
        self.segments = -(-length // self.steps)
        # The published kernel lets no weight grow from a segment's first token on, nor for it.
        inner = torch.arange(self.steps, device=decay.device) > 0
        self.inner = inner[:, None].to(decay.dtype)  # (n, 1)
        # 1 - exp(decay) as growth * exp(lift), so that it does not overflow.
        self.lift = torch.where(decay > LARGE, decay, 0.0)
        self.growth = torch.where(decay > LARGE, torch.expm1(-decay), -torch.expm1(decay))

    def cut(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """Return (..., T, C) as (..., S, n, C)."""
        x = F.pad(x, (0, 0, 0, self.segments * self.steps - self.length), value=fill)
        return x.unflatten(-2, (self.segments, self.steps))

    def join(self, x: Tensor) -> Tensor:
        """Return (..., S, n, C) as (..., T, C)."""
        return x.flatten(-3, -2)[..., : self.length, :]

    def mix(self, x: Sums, back: bool) -> Mixed:
        """Sum ``x`` (K, B, S, n, C) with all weights; back, with those of W transposed."""
        far = _across(x, self.decay, not back)
        if not self.published:
            near = _across(x, self.decay, back)
            return Mixed(near, far, None, None, _add((near, 0.0), (far, 0.0), (x, self.bonus)))
        near, others = _apart(x, self.decay, back)
        inner = self.inside(x)
        grown = self.inside(_sweep(inner, _product(-self.decay, 1), _nothing(inner), back)[0])
        total = _add(
            (near, 0.0),
            (others, 0.0),
            (far, -self.decay),
            (x, self.bonus),
            (self.growing(grown), self.decay + self.lift),
            (self.growing(inner), self.lift),
        )
        return Mixed(near, far, others, grown, total)

    def inside(self, x: Sums) -> Sums:
        """Return a sum without the tokens that let no weight grow; nothing has the exponent of nothing."""
        return Sums(x.values * self.inner, torch.where(self.inner > 0, x.scale, LOWEST))

    def growing(self, x: Sums) -> Sums:
        """Return a sum times 1 - exp(decay), but for the factor exp(lift)."""
        return Sums(x.values * self.growth, x.scale)

    def slope(self, r: Sums, grads: Mixed, x: Sums, sums: Mixed) -> Tensor:
        """Return the gradient of decay, (C,).

        The derivative of exp(-w d) counts d: once for each token that lies between the two, so for each token the sums
        of what lies on one side of it meet those of what lies on the other; and once more, where the end counts too.
        """
        w = self.decay
        if not self.published:
            return -_dot(grads.near, sums.near, -w) - _dot(grads.far, sums.far, -w)
        near, others, inner = sums.near, sums.others, self.inside(x)
        assert others and grads.others and sums.grown and grads.grown
        total = _dot(grads.near, near, -w) + _dot(grads.others, near, -w) + _dot(grads.near, others, -w)
        total = total + _dot(grads.others, others, 0.0) + _dot(r, others, 0.0)
        total = total + _dot(grads.far, sums.far, -2 * w) + _dot(r, sums.far, -w)
        lift = self.lift
        total = total - _dot(self.growing(grads.grown), sums.grown, 2 * w + lift)
        total = total - _dot(self.growing(r), sums.grown, w + lift)
        return -total - _dot(r, sums.grown, 2 * w) - _dot(r, inner, w)


def _load(problem: Problem, k: Tensor, v: Tensor) -> Sums:
    """Return the numbers exp(k) and exp(k) v, (2, B, S, n, C)."""
    k, v = k.to(problem.decay.dtype), v.to(problem.decay.dtype)
    ones = problem.cut(torch.ones_like(v))
    return Sums(torch.stack([ones, problem.cut(v)]), problem.cut(k.clamp(min=LOWEST), LOWEST))


def forward(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool) -> Tensor:
    """Run the forward pass; arguments and result as of :class:`Implementation`."""
    with without_autocast(k):
        problem = Problem(decay, bonus, k.shape[1], published)
        below, above = problem.mix(_load(problem, k, v), False).total.values
        return problem.join(above / below).to(k.dtype).contiguous()


def backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, published: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the backward pass: gradients of decay, bonus, k and v. The sums are computed again rather than kept."""
    with without_autocast(k):
        problem = Problem(decay, bonus, k.shape[1], published)
        x = _load(problem, k, v)
        sums = problem.mix(x, False)
        below, above = (problem.join(part) for part in sums.total.values)  # (B, T, C)
        share = grad.to(decay.dtype) / below
        r = Sums(
            problem.cut(torch.stack([share, share * (above / below)])),
            problem.cut(-problem.join(sums.total.scale), LOWEST),
        )
        grads = problem.mix(r, True)
        weight = torch.exp(grads.total.scale + x.scale)
        dv, dtotal = (problem.join(part * weight) for part in grads.total.values)
        dk = dv * v.to(decay.dtype) - dtotal
        ddecay, dbonus = problem.slope(r, grads, x, sums), _dot(r, x, bonus)
    return ddecay, dbonus, dk.to(k.dtype).contiguous(), dv.to(v.dtype).contiguous()


IMPLEMENTATION = Implementation(forward, backward)
