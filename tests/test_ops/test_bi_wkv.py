"""The bidirectional WKV against its definition in float64: output and every gradient, of all backends that are here."""

import math

import pytest
import torch
from helpers import BACKENDS, KINDS, randn

from mmvim.ops import bi_wkv
from mmvim.ops.triton_host.device import interpreting

BOUNDARIES = pytest.mark.parametrize('boundary', ['exact', 'published'])
# 31 to 33 and 64 to 66 tokens: the published kernel's segments grow there. Channels: no, one and several whole vectors.
SHAPES = [(2, 1, 3), (1, 2, 16), (2, 7, 5), (1, 31, 4), (1, 32, 17), (1, 33, 20), (2, 64, 33), (1, 65, 8), (2, 100, 70)]
SHORT = 5 if interpreting() else 45  # an interpreted step takes milliseconds
SHAPES = [(2, 1, 3), (2, 7, 5), (1, 33, 20)] if interpreting() else [*SHAPES, (1, 201, 6), (1, 70, 150)]


def inputs_of(batch, length, dim, decay=1.0, spread=1.0):
    """Decay up to ``decay`` (less, if negative) for one token, bonus, k of standard deviation ``spread``, v."""
    w = torch.rand(dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64) * decay
    k = (randn(batch, length, dim) * spread).clamp(-80, 80)
    return w, randn(dim, seed=1), k, randn(batch, length, dim, seed=2)


def results(inputs, dtype, **options):
    """The output and the gradients of all inputs, in float64."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    out = bi_wkv(*leaves, **options)
    grads = torch.autograd.grad((out.double() * randn(*out.shape, seed=3)).sum(), leaves)
    return [out.double(), *(grad.double() for grad in grads)]


def errors(inputs, dtype, boundary, backend, floors=(0.0,) * 5):
    """Each result's largest difference from the definition, relative to its largest value or, if more, to a floor."""
    rounded = [x.to(dtype).double() for x in inputs]
    expected = results(rounded, torch.float64, boundary=boundary, backend='reference')
    got = results(inputs, dtype, boundary=boundary, backend=backend)
    assert all(x.shape == y.shape and x.isfinite().all() for x, y in zip(got, expected, strict=True))
    found = []
    for x, y, floor in zip(got, expected, floors, strict=True):
        size = y.abs().max().clamp(min=floor)
        found.append(((x - y).abs().max() / size).item() if size > 0 else x.abs().max().item())
    return found


def allowed(tolerance):
    return 1e-11 if tolerance < 1e-8 else 5e-6


@pytest.mark.covering(2)
@KINDS
@BOUNDARIES
@pytest.mark.parametrize(('batch', 'length', 'dim'), SHAPES)
@pytest.mark.parametrize(
    ('decay', 'spread'), [(1, 1), (8, 3), (-8, 3), (0, 1)], ids=['near', 'far', 'negative', 'none']
)
def test_output_and_gradients(batch, length, dim, decay, spread, boundary, backend, dtype, tolerance):
    inputs = inputs_of(batch, length, dim, decay / length, spread)
    floors = [1.0 if length == 1 else 0.0] * 5  # all gradients of a single token but v's are zero
    if spread > 1:  # where few tokens have most of the weight, decay's gradient is small beside the numbers it sums
        floors[1] = 2 * length
    assert max(errors(inputs, dtype, boundary, backend, floors)) < allowed(tolerance)


@pytest.mark.covering(2)
@KINDS
@pytest.mark.parametrize(('batch', 'length', 'dim'), SHAPES)
@pytest.mark.parametrize('decay', [300.0, -300.0, 30.0, -30.0, 1.0, -1.0])
@pytest.mark.parametrize('spread', [1.0, 40.0, 1000.0])
def test_exact_never_overflows(batch, length, dim, decay, spread, backend, dtype, tolerance):
    """Decay up to 30 for a token and k up to 80: one token has nearly all the weight, and gradients nearly vanish."""
    inputs = inputs_of(batch, length, dim, decay, spread)
    # What is left of the gradients are differences of sums over so many numbers around 1, for decay times the distance.
    floors = [1.0, batch * length**2, batch * length, length, length]
    assert max(errors(inputs, dtype, 'exact', backend, floors)) < allowed(tolerance)


def weights_of(length, decay, bonus, published):
    """W[t, j] (T, T, C), entry by entry; for decays whose exponentials are numbers."""
    segment = -(-length // 32)
    found = torch.empty(length, length, len(decay), dtype=torch.float64)
    for t in range(length):
        first = t // segment * segment
        for j in range(length):
            inside = first <= j < t if published else j != t
            found[t, j] = torch.exp(bonus) if j == t else torch.exp(-decay * (abs(t - j) - inside))
            if published and first < j <= t:
                found[t, j] += torch.exp(decay * (t - j)) * (1 - torch.exp(decay))
    return found


@BOUNDARIES
@pytest.mark.parametrize('length', [1, 5, 33, 70])
def test_the_definition_is_the_weighted_average(length, boundary):
    w, u, k, v = inputs_of(2, length, 4, 0.1)
    weights = weights_of(length, w, u, boundary == 'published') * k.exp()[:, None]  # (B, T, T, C)
    expected = (weights * v[:, None]).sum(2) / weights.sum(2)
    torch.testing.assert_close(bi_wkv(w, u, k, v, boundary=boundary, backend='reference'), expected)


@KINDS
@pytest.mark.parametrize('decay', [-300.0, -30.0, -1.0])
def test_the_published_kernel_with_weights_that_only_grow(decay, backend, dtype, tolerance):
    """All of them are positive then, however large they are."""
    length = 33 if interpreting() else 70
    inputs = inputs_of(1, length, 20, decay)
    floors = [1.0, length**2, length, length, length]
    assert max(errors(inputs, dtype, 'published', backend, floors)) < allowed(tolerance)


@KINDS
@pytest.mark.parametrize('decay', [0.3, 2.0])
def test_the_published_kernel_where_weights_cancel(decay, backend, dtype, tolerance):
    """Its outputs lose as many digits as the sum of its weights does."""
    length = 33 if interpreting() else 70
    inputs = [x.to(dtype).double() for x in inputs_of(1, length, 20, decay)]
    w, u, k, v = inputs
    weights = weights_of(length, w, u, True) * k.exp()[:, None]  # (1, T, T, C)
    lost = weights.abs().sum(2) / weights.sum(2).abs()
    assert lost.max() > (1.2 if decay < 1 else 10)
    expected = bi_wkv(*inputs, boundary='published', backend='reference')
    got = bi_wkv(*(x.to(dtype) for x in inputs), boundary='published', backend=backend).double()
    size = (weights.abs() * v.abs()[:, None]).sum(2) / weights.sum(2).abs() * lost
    assert ((got - expected).abs() / size.clamp(min=1)).max() < allowed(tolerance)


@BACKENDS
@BOUNDARIES
def test_keys_of_any_size(boundary, backend):
    """A key beyond what exp can take, or none: the weights are those of the differences."""
    w, u, k, v = (x.float() for x in inputs_of(1, 9, 5, 0.1))
    expected = bi_wkv(w, u, k, v, boundary=boundary, backend=backend)
    moved = bi_wkv(w, u, (k * 64).round() / 64 + 4096, v, boundary=boundary, backend=backend)
    torch.testing.assert_close(moved, bi_wkv(w, u, (k * 64).round() / 64, v, boundary=boundary, backend=backend))
    k[:, 4] = -math.inf
    absent = bi_wkv(w, u, k, v, boundary=boundary, backend=backend)
    assert absent.isfinite().all()
    assert not torch.allclose(absent, expected)
    torch.testing.assert_close(absent, bi_wkv(w, u, k.clamp(min=-1e4), v, boundary=boundary, backend=backend))


@BACKENDS
def test_many_tokens(backend):
    """In linear time: 100,000 tokens, on a stretch of them compared with the definition of that stretch."""
    length = 100_000
    w, u = torch.full((3,), 2.0), torch.zeros(3)
    k, v = randn(1, length, 3).float(), randn(1, length, 3, seed=1).float()
    out = bi_wkv(w, u, k, v, backend=backend)
    for start in (0, length // 2, length - 100):  # e^-60 of the weight is further away than 30 tokens
        part = slice(start, start + 100)
        near = bi_wkv(*(x.double() for x in (w, u, k[:, part], v[:, part])), backend='reference')
        torch.testing.assert_close(out[:, part][:, 30:70].double(), near[:, 30:70], rtol=1e-5, atol=1e-6)
    mean = bi_wkv(torch.zeros(3), torch.zeros(3), k, v, backend=backend).double()
    weights = k.double().exp()
    expected = ((weights * v).sum(1) / weights.sum(1))[:, None].expand_as(mean)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6)


@BACKENDS
@BOUNDARIES
def test_half_precision_and_autocast(boundary, backend):
    w, u, k, v = (x.float() for x in inputs_of(2, SHORT, 24, 0.02))
    expected = bi_wkv(w, u, k.bfloat16().float(), v.bfloat16().float(), boundary=boundary, backend=backend)
    for dtype in (torch.bfloat16, torch.float16):
        got = bi_wkv(w, u, k.bfloat16().to(dtype), v.bfloat16().to(dtype), boundary=boundary, backend=backend)
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected.to(dtype))  # the arithmetic is float32
    with torch.autocast('cpu', dtype=torch.bfloat16):
        cast = bi_wkv(w, u, k, v, boundary=boundary, backend=backend)
    assert torch.equal(cast, bi_wkv(w, u, k, v, boundary=boundary, backend=backend))
    leaves = [x.requires_grad_() for x in (w, u, k.bfloat16(), v.bfloat16())]
    grads = torch.autograd.grad(bi_wkv(*leaves, boundary=boundary, backend=backend).sum(), leaves)
    assert [x.dtype for x in grads] == [torch.float32] * 2 + [torch.bfloat16] * 2


@BACKENDS
@BOUNDARIES
def test_strided_inputs_and_repeated_calls(boundary, backend):
    w, u, k, v = (x.float() for x in inputs_of(2, SHORT, 40, 0.02))
    parts = torch.cat([k, v], dim=-1).chunk(2, dim=-1)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)]
    found = []
    for keys, values in ((k, v), parts, turned, (k, v)):
        leaves = [x.detach().requires_grad_() for x in (w, u, keys, values)]
        out = bi_wkv(*leaves, boundary=boundary, backend=backend)
        found.append([out, *torch.autograd.grad((out * out.detach().cos()).sum(), leaves)])
    assert all(torch.equal(x, y) for other in found for x, y in zip(other, found[0], strict=True))


@BACKENDS
def test_the_two_boundaries_differ_only_in_the_weights_that_the_kernel_gets_wrong(backend):
    inputs = [x.float() for x in inputs_of(1, 70, 8, 0.05)]
    exact, published = (bi_wkv(*inputs, boundary=boundary, backend=backend) for boundary in ('exact', 'published'))
    assert 1e-4 < (exact - published).abs().max() < 0.1
    inputs[0].zero_()
    exact, published = (bi_wkv(*inputs, boundary=boundary, backend=backend) for boundary in ('exact', 'published'))
    torch.testing.assert_close(exact, published)


@BACKENDS
@pytest.mark.parametrize('shape', [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing(shape, backend):
    leaves = [
        x.requires_grad_() for x in (torch.ones(shape[2]), torch.ones(shape[2]), torch.ones(shape), torch.ones(shape))
    ]
    out = bi_wkv(*leaves, backend=backend)
    assert out.shape == shape
    assert not any(x.any() for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize(
    ('changes', 'error', 'words'),
    [
        ({'decay': torch.zeros(5)}, ValueError, r'decay must be \(C,\) = \(4,\).*got \(5,\)'),
        ({'bonus': torch.zeros(1, 4)}, ValueError, r'bonus must be \(C,\)'),
        ({'k': torch.zeros(3, 4)}, ValueError, r'k and v must both be \(B, T, C\), got \(3, 4\)'),
        ({'v': torch.zeros(2, 3, 5)}, ValueError, r'got \(2, 3, 4\) and \(2, 3, 5\)'),
        (
            {'v': torch.zeros(2, 3, 4, dtype=torch.int64)},
            TypeError,
            'v must be a floating-point tensor, got torch.int64',
        ),
        ({'decay': 0.5}, TypeError, 'decay must be a floating-point tensor, got float'),
        ({'bonus': torch.zeros(4, device='meta')}, ValueError, 'bonus is on meta, k on cpu'),
        ({'v': torch.zeros(2, 3, 4, device='meta')}, ValueError, 'v is on meta, k on cpu'),
        ({'boundary': 'paper'}, ValueError, "boundary must be 'exact' or 'published', got 'paper'"),
        ({'backend': 'abacus'}, ValueError, "'abacus' is not a backend of the bidirectional WKV"),
    ],
)
def test_bad_arguments_are_named(changes, error, words):
    arguments = {'decay': torch.zeros(4), 'bonus': torch.zeros(4), 'k': torch.zeros(2, 3, 4), 'v': torch.zeros(2, 3, 4)}
    with pytest.raises(error, match=words):
        bi_wkv(**(arguments | changes))
