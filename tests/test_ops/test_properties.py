"""What holds of the convolution, the norm and the bidirectional WKV for any input, of every backend.

None of them has a state or a C. The convolution is linear in its input before SiLU, the norm in its weight, and the WKV
in v. The WKV sees all tokens at once: instead of being cut, a sequence is continued by tokens that have no weight.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from helpers import DEFINED
from hypothesis import strategies as st
from properties import EXAMPLES, FRACTIONS, LONGEST, SEEDS, assert_close, gradients, hold, numbers, pieces_of
from torch import Tensor

from mmvim.ops import bi_wkv
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm

FACTORS = st.floats(-4, 4)
POWERS = st.integers(-20, 20).map(lambda e: 2.0**e)


class Filters(NamedTuple):
    """A convolution: sizes, how far its filters look back, and where its numbers come from."""

    batch: int
    dim: int
    length: int
    taps: int
    left: tuple[int, ...]
    seed: int

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        """What :func:`conv1d_silu` takes; another seed gives other numbers."""
        return numbers(
            self.seed + seed,
            dtype,
            x=(self.batch, self.length, self.dim),
            weight=(len(self.left), self.dim, self.taps),
            bias=(len(self.left), self.dim),
        )


@st.composite
def filters(draw) -> Filters:
    taps = draw(st.integers(1, 7))
    left = draw(st.lists(st.integers(0, taps - 1), min_size=1, max_size=3))
    sizes = [draw(st.integers(1, most)) for most in (2, 40, LONGEST)]
    return Filters(*sizes, taps, tuple(left), draw(SEEDS))


@EXAMPLES
@DEFINED
def test_convolution_linear_in_its_input(backend, dtype, examples):
    """With a bias beyond which SiLU changes nothing."""

    @hold(examples, p=filters(), a=st.floats(-1, 1), b=st.floats(-1, 1))
    def check(p, a, b):
        tensors, bias = p.tensors(dtype), torch.full((len(p.left), p.dim), 60.0, dtype=dtype)
        x, other, weight = tensors['x'], p.tensors(dtype, seed=1)['x'], tensors['weight']
        one, two, both = (conv1d_silu(y, weight, bias, p.left, backend) - 60 for y in (x, other, a * x + b * other))
        assert_close(both, a * one + b * two, size=60.0)


@EXAMPLES
@DEFINED
def test_convolution_moves_and_turns_with_its_input(backend, dtype, examples):
    @hold(examples, p=filters(), wait=st.integers(1, LONGEST))
    def check(p, wait):
        x, weight, bias = (value.requires_grad_() for value in p.tensors(dtype).values())
        y = conv1d_silu(x, weight, bias, p.left, backend)
        late = conv1d_silu(F.pad(x, (0, 0, wait, 0)), weight, bias, p.left, backend)[:, :, wait:]
        right = [p.taps - 1 - left for left in p.left]
        turned = conv1d_silu(x.flip(1), weight.flip(-1), bias, right, backend).flip(2)
        expected = gradients((y,), [x, weight, bias])
        for other in (late, turned):
            assert_close(other, y)
            for got, grad in zip(gradients((other,), [x, weight, bias]), expected, strict=True):
                assert_close(got, grad)


@EXAMPLES
@DEFINED
def test_convolution_in_pieces_is_the_whole(backend, dtype, examples):
    """Each with the tokens around it that its filters see."""

    @hold(examples, p=filters(), fractions=FRACTIONS)
    def check(p, fractions):
        x, weight, bias = p.tensors(dtype).values()
        halo, pieces = p.taps - 1, []
        padded = F.pad(x, (0, 0, halo, halo))
        for piece in pieces_of(p.length, fractions):
            y = conv1d_silu(padded[:, piece.start : piece.stop + 2 * halo], weight, bias, p.left, backend)
            pieces.append(y[:, :, halo : halo + piece.stop - piece.start])
        assert_close(torch.cat(pieces, 2), conv1d_silu(x, weight, bias, p.left, backend))


@EXAMPLES
@DEFINED
def test_convolution_of_constant_input_has_a_closed_form(backend, dtype, examples):
    @hold(examples, p=filters())
    def check(p):
        x, weight, bias = p.tensors(torch.float64).values()
        x = x[:, :1].expand_as(x)
        t = torch.arange(p.length)[:, None]
        expected = []
        for k, left in enumerate(p.left):
            seen = t + torch.arange(p.taps) - left  # (L, taps)
            inside = ((seen >= 0) & (seen < p.length)).double()
            expected.append(F.silu(x * (inside @ weight[k].T) + bias[k]))
        found = conv1d_silu(x.to(dtype), weight.to(dtype), bias.to(dtype), p.left, backend)
        assert_close(found, torch.stack(expected, 1))


class Norm(NamedTuple):
    """A norm: sizes, and where its numbers come from."""

    tokens: int
    dim: int
    added: bool
    seed: int

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor | None, Tensor]:
        """Tokens, the stream or None, and the weight; another seed gives other numbers."""
        shape = (self.tokens, self.dim)
        x, residual, weight = numbers(self.seed + seed, dtype, x=shape, residual=shape, weight=(self.dim,)).values()
        return x, residual if self.added else None, weight


NORMS = st.builds(Norm, tokens=st.integers(1, LONGEST), dim=st.integers(1, 70), added=st.booleans(), seed=SEEDS)


@EXAMPLES
@DEFINED
def test_norm_linear_in_its_weight_and_blind_to_scale(backend, dtype, examples):
    """Any power of two times the tokens, and its square times eps, give the same bits."""

    @hold(examples, p=NORMS, a=FACTORS, b=FACTORS, scale=POWERS)
    def check(p, a, b, scale):
        (x, residual, weight), other = p.tensors(dtype), p.tensors(dtype, seed=1)[2]
        y, total = add_rms_norm(x, residual, weight, 1e-5, backend)
        two = add_rms_norm(x, residual, other, 1e-5, backend)[0]
        assert_close(add_rms_norm(x, residual, a * weight + b * other, 1e-5, backend)[0], a * y + b * two, size=4.0)
        scaled = x * scale, None if residual is None else residual * scale
        large, large_total = add_rms_norm(*scaled, weight, 1e-5 * scale**2, backend)
        assert_close(large, y)
        assert torch.equal(large_total, total * scale)


@EXAMPLES
@DEFINED
def test_norm_moves_turns_and_cuts_with_its_tokens(backend, dtype, examples):
    @hold(examples, p=NORMS, fractions=FRACTIONS)
    def check(p, fractions):
        x, residual, weight = p.tensors(dtype)
        order = torch.randperm(p.tokens, generator=torch.Generator().manual_seed(p.seed))
        y, total = add_rms_norm(x, residual, weight, 1e-5, backend)
        turned = add_rms_norm(x[order], None if residual is None else residual[order], weight, 1e-5, backend)
        assert_close(turned[0], y[order])
        assert torch.equal(turned[1], total[order])
        parts = [(x[s], None if residual is None else residual[s]) for s in pieces_of(p.tokens, fractions)]
        assert_close(torch.cat([add_rms_norm(*part, weight, 1e-5, backend)[0] for part in parts]), y)


@EXAMPLES
@DEFINED
def test_norm_of_constant_input_has_a_closed_form(backend, dtype, examples):
    @hold(examples, p=NORMS, value=st.floats(-1e4, 1e4), eps=st.sampled_from([1e-6, 1e-5, 1e-2]))
    def check(p, value, eps):
        weight = p.tensors(torch.float64)[2]
        x = torch.full((p.tokens, p.dim), value, dtype=torch.float64).to(dtype)
        expected = x.double() / torch.sqrt(x.double().square() + eps) * weight
        assert_close(add_rms_norm(x, None, weight.to(dtype), eps, backend)[0], expected)


class Average(NamedTuple):
    """A bidirectional WKV: sizes, option, and where its numbers come from."""

    batch: int
    dim: int
    length: int
    decay: float
    seed: int

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        """What :func:`bi_wkv` takes, the decays between 0 and ``decay``; another seed gives other numbers."""
        tokens = (self.batch, self.length, self.dim)
        found = numbers(self.seed + seed, dtype, decay=(self.dim,), bonus=(self.dim,), k=tokens, v=tokens)
        found['decay'] = torch.sigmoid(found['decay']) * self.decay
        return found


AVERAGES = st.builds(
    Average,
    batch=st.integers(1, 2),
    dim=st.integers(1, 40),
    length=st.integers(1, LONGEST),
    decay=st.floats(0, 3),
    seed=SEEDS,
)


@EXAMPLES
@DEFINED
def test_average_linear_in_v_and_of_equal_values_is_the_value(backend, dtype, examples):
    """For both boundaries; the published one at decays that leave its weights positive."""

    @hold(examples, p=AVERAGES, a=FACTORS, b=FACTORS, boundary=st.sampled_from(['exact', 'published']))
    def check(p, a, b, boundary):
        p = p._replace(decay=p.decay / p.length) if boundary == 'published' else p
        x, other = p.tensors(dtype), p.tensors(dtype, seed=1)['v']
        one, two, both, equal = (
            bi_wkv(**{**x, 'v': v}, boundary=boundary, backend=backend)
            for v in (x['v'], other, a * x['v'] + b * other, torch.full_like(other, a))
        )
        assert_close(both, a * one + b * two, size=4.0)
        assert_close(equal, torch.full_like(equal, a))


@EXAMPLES
@DEFINED
def test_average_turns_with_its_tokens_and_keeps_still_for_larger_keys(backend, dtype, examples):
    @hold(examples, p=AVERAGES, more=st.integers(-4096, 4096))
    def check(p, more):
        x = p.tensors(dtype)
        x['k'] = (x['k'] * 64).round() / 64  # which a whole number can be added to without rounding
        x = {name: value.requires_grad_() for name, value in x.items()}
        y = bi_wkv(**x, backend=backend)
        turned = bi_wkv(**{**x, 'k': x['k'].flip(1), 'v': x['v'].flip(1)}, backend=backend).flip(1)
        larger = bi_wkv(**{**x, 'k': x['k'] + more}, backend=backend)
        expected, size = gradients((y,), list(x.values())), float(p.length)
        for other in (turned, larger):
            assert_close(other, y)
            for got, grad in zip(gradients((other,), list(x.values())), expected, strict=True):
                assert_close(got, grad, size)


@EXAMPLES
@DEFINED
def test_average_does_not_see_tokens_without_weight(backend, dtype, examples):
    """Before the sequence and behind it: it moves, and is cut into other segments."""

    @hold(examples, p=AVERAGES, before=st.integers(0, LONGEST), behind=st.integers(0, LONGEST))
    def check(p, before, behind):
        x = p.tensors(dtype)
        inside = slice(before, before + p.length)
        k, v = (F.pad(x[name], (0, 0, before, behind), value=fill) for name, fill in (('k', -math.inf), ('v', 3.0)))
        moved = bi_wkv(**{**x, 'k': k, 'v': v}, backend=backend)
        assert_close(moved[:, inside], bi_wkv(**x, backend=backend))
        assert moved.isfinite().all()


@EXAMPLES
@DEFINED
def test_average_of_constant_keys_has_a_closed_form(backend, dtype, examples):
    """What one token has of it is its weight, over a sum of two geometric series."""

    @hold(examples, p=AVERAGES, place=st.floats(0, 1), key=st.floats(-100, 100))
    def check(p, place, key):
        p = p._replace(decay=p.decay + 0.1)
        x = p.tensors(torch.float64)
        j, t = round(place * (p.length - 1)), torch.arange(p.length, dtype=torch.float64)[:, None]
        x['k'], x['v'] = torch.full_like(x['k'], key), torch.zeros_like(x['v'])
        x['v'][:, j] = 1
        x = {name: value.to(dtype) for name, value in x.items()}
        w, u = x['decay'].double(), x['bonus'].double()
        series = [torch.expm1(-w * count) / torch.expm1(-w) for count in (t, p.length - 1 - t)]
        weight = torch.where(t == j, u, -w * ((t - j).abs() - 1)).exp()
        expected = (weight / (u.exp() + series[0] + series[1])).expand(p.batch, -1, -1)
        assert_close(bi_wkv(**x, backend=backend), expected)
