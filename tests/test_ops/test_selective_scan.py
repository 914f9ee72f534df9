"""One path: every shape and option against the definition, and what an operator of PyTorch must keep to."""

import inspect

import pytest
import torch
from helpers import KINDS, compare, randn

from mmvim.ops import backends, selective_scan

# batch, dim, length, d_state, groups
SHAPES = [
    (2, 6, 1, 4, 1),
    (1, 5, 2, 16, 1),
    (3, 4, 7, 1, 1),
    (2, 12, 49, 8, 2),
    (1, 20, 63, 16, 4),
    (2, 3, 197, 5, 1),
    (1, 2, 700, 1, 1),
    (1, 2, 333, 3, 2),
]


def scan_of(reverse=False, last=True, **more):
    def scan(u, delta, A, B, C, D=None, z=None, bias=None, state=None, backend=None):
        return selective_scan(
            u,
            delta,
            -A.exp(),
            B,
            C,
            D,
            z,
            bias,
            True,
            last,
            reverse=reverse,
            initial_state=state,
            backend=backend,
            **more,
        )

    return scan


def inputs_of(batch, dim, length, d_state, groups, optional):
    extra = (randn(dim), randn(batch, dim, length, seed=3), randn(dim, seed=4), randn(batch, dim, d_state))
    return (
        randn(batch, dim, length),
        randn(batch, dim, length, seed=1),
        randn(dim, d_state) * 0.3,
        randn(batch, groups, d_state, length),
        randn(batch, groups, d_state, length, seed=2),
        *(extra if optional else (None,) * 4),
    )


@pytest.mark.parametrize('shape', SHAPES, ids='B{0[0]}-D{0[1]}-L{0[2]}-N{0[3]}-G{0[4]}'.format)
@pytest.mark.parametrize('optional', [False, True], ids=['plain', 'all'])
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@KINDS
def test_against_the_definition(shape, optional, reverse, backend, dtype, tolerance):
    compare(scan_of(reverse), inputs_of(*shape, optional), backend, dtype, tolerance)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize('shape', SHAPES[2:6:3], ids='B{0[0]}-D{0[1]}-L{0[2]}-N{0[3]}-G{0[4]}'.format)
@pytest.mark.parametrize('backend', ['torch', 'auto'])
def test_lower_precision(shape, dtype, tolerance, backend):
    compare(scan_of(), inputs_of(*shape, True), backend, dtype, tolerance)


@pytest.mark.parametrize('backend', ['torch', 'reference'])
def test_projections_of_every_rank(backend):
    u, delta, A = randn(2, 6, 9), randn(2, 6, 9, seed=1), randn(6, 4)
    for B, C in (
        (randn(6, 4), randn(2, 4, 9)),
        (randn(2, 4, 9), randn(6, 4)),
        (randn(6, 4), randn(6, 4, seed=1)),
        (randn(2, 3, 4, 9), randn(2, 2, 4, 9)),
    ):
        compare(scan_of(), (u, delta, A, B, C), backend, torch.float64, 1e-12)


def test_the_definition_by_hand():
    """Two steps of one channel and one state, written out."""
    u, delta, A, B, C = (
        torch.tensor(v, dtype=torch.float64)
        for v in ([[[2.0, 3.0]]], [[[0.5, 0.25]]], [[-1.0]], [[[4.0, 5.0]]], [[[6.0, 7.0]]])
    )
    h0 = 0.5 * 2 * 4
    h1 = torch.exp(torch.tensor(-0.25, dtype=torch.float64)) * h0 + 0.25 * 3 * 5
    for backend in ('reference', 'torch'):
        out, last = selective_scan(u, delta, A, B, C, torch.ones(1), return_last_state=True, backend=backend)
        expected = torch.stack([torch.tensor(6.0 * h0 + 2, dtype=torch.float64), 7 * h1 + 3])
        torch.testing.assert_close(out, expected[None, None])
        torch.testing.assert_close(last, h1.reshape(1, 1, 1))


def test_reverse_is_the_scan_of_the_flipped_sequence():
    u, delta, A, B, C, D, z, bias, state = inputs_of(2, 6, 11, 4, 2, True)
    flipped = selective_scan(
        *(x.flip(-1) if x.ndim > 2 else x for x in (u, delta, A, B, C, D, z)), bias, True, True, initial_state=state
    )
    direct = selective_scan(u, delta, A, B, C, D, z, bias, True, True, reverse=True, initial_state=state)
    torch.testing.assert_close(direct[0], flipped[0].flip(-1))
    torch.testing.assert_close(direct[1], flipped[1])


def test_a_sequence_in_two_halves():
    u, delta, A, B, C = inputs_of(2, 6, 20, 4, 1, False)[:5]
    whole, end = selective_scan(u, delta, -A.exp(), B, C, return_last_state=True)
    first, state = selective_scan(
        *(x[..., :9] for x in (u, delta)), -A.exp(), B[..., :9], C[..., :9], return_last_state=True
    )
    second, last = selective_scan(
        *(x[..., 9:] for x in (u, delta)), -A.exp(), B[..., 9:], C[..., 9:], return_last_state=True, initial_state=state
    )
    torch.testing.assert_close(torch.cat([first, second], -1), whole)
    torch.testing.assert_close(last, end)


def test_gradcheck():
    inputs = [x.requires_grad_() for x in inputs_of(1, 4, 5, 2, 2, True)]
    assert torch.autograd.gradcheck(scan_of(), inputs)


def test_views_of_any_strides():
    u, delta, A, B, C = inputs_of(2, 6, 19, 4, 1, False)[:5]
    expected = selective_scan(u, delta, -A.exp(), B, C, backend='reference')
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (u, delta, B, C)]
    wide = torch.stack([u, u], dim=-1)[..., 0]
    for a, d, b, c in (strided, (wide, delta, B, C), (u, delta[:1].expand(2, -1, -1), B, C)):
        d2 = d if d.shape == delta.shape else delta
        reference = selective_scan(a, d2, -A.exp(), b, c, backend='reference')
        torch.testing.assert_close(selective_scan(a, d2, -A.exp(), b, c), reference)
    torch.testing.assert_close(selective_scan(strided[0], strided[1], -A.exp(), strided[2], strided[3]), expected)


def test_state_stays_float32_and_extremes_do_not_overflow():
    u = torch.full((1, 2, 300), 200.0, dtype=torch.float16)
    out, last = selective_scan(
        u,
        u / 40,
        -torch.ones(2, 4) * 1e-3,
        torch.full((1, 4, 300), 8.0, dtype=torch.float16),
        torch.full((1, 4, 300), 0.02, dtype=torch.float16),
        return_last_state=True,
        out_dtype=torch.float32,
    )
    assert out.dtype == last.dtype == torch.float32
    assert torch.isfinite(out).all() and out.max() > 65504  # beyond float16
    steep = selective_scan(u.float(), u.float(), -torch.ones(2, 4) * 1e4, *(torch.ones(1, 4, 300),) * 2)
    assert torch.isfinite(steep).all()


@pytest.mark.parametrize('backend', ['torch', 'auto'])
def test_autocast_does_not_reach_the_state(backend):
    u, delta, A, B, C = (x.float() for x in inputs_of(1, 4, 30, 8, 1, False)[:5])
    expected = selective_scan(u, delta, -A.exp(), B, C, backend=backend)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = selective_scan(u, delta, -A.exp(), B, C, backend=backend)
        assert selective_scan(u.bfloat16(), delta, -A.exp(), B, C, backend=backend).dtype == torch.bfloat16
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(('batch', 'length'), [(0, 5), (2, 0), (0, 0)])
def test_empty(batch, length):
    inputs = [x.requires_grad_() for x in inputs_of(batch, 4, length, 3, 1, False)[:5]]
    out, last = selective_scan(*inputs, return_last_state=True)
    assert out.shape == (batch, 4, length) and last.shape == (batch, 4, 3)
    grads = torch.autograd.grad(out.sum() + last.sum(), inputs)
    assert all(g.shape == x.shape for g, x in zip(grads, inputs, strict=True))


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        ({'u': torch.zeros(4, 5)}, ValueError, 'u'),
        ({'delta': torch.zeros(2, 4, 6)}, ValueError, 'delta'),
        ({'A': torch.zeros(5, 3)}, ValueError, 'A'),
        ({'B': torch.zeros(2, 3, 3, 5)}, ValueError, 'B'),
        ({'C': torch.zeros(2, 4, 5)}, ValueError, 'C'),
        ({'D': torch.zeros(5)}, ValueError, 'D'),
        ({'z': torch.zeros(2, 4, 4)}, ValueError, 'z'),
        ({'delta_bias': torch.zeros(3)}, ValueError, 'delta_bias'),
        ({'initial_state': torch.zeros(2, 4, 4)}, ValueError, 'initial_state'),
        ({'u': torch.zeros(2, 4, 5, dtype=torch.int64)}, TypeError, 'u'),
        ({'A': torch.zeros(4, 3, dtype=torch.complex64)}, TypeError, 'A'),
        ({'delta': [1, 2]}, TypeError, 'delta'),
        ({'B': torch.zeros(2, 3, 5, device='meta')}, ValueError, 'B'),
        ({'backend': 'cuda'}, ValueError, "'cuda' is not a backend"),
        ({'out_dtype': torch.int32}, (TypeError, ValueError), 'out_dtype'),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    good = {
        'u': torch.zeros(2, 4, 5),
        'delta': torch.zeros(2, 4, 5),
        'A': torch.zeros(4, 3),
        'B': torch.zeros(2, 3, 5),
        'C': torch.zeros(2, 3, 5),
    }
    selective_scan(**good)
    with pytest.raises(error, match=words):
        selective_scan(**{**good, **change})


def test_backends(monkeypatch):
    assert {'torch', 'reference'} <= {name for name, (usable, _) in backends().items() if usable}
    inputs = inputs_of(1, 2, 3, 2, 1, False)[:5]
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', 'abacus')
    with pytest.raises(ValueError, match="MMVIM_SCAN_BACKEND = 'abacus' is not a backend"):
        selective_scan(*inputs)
    selective_scan(*inputs, backend='torch')
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', 'reference')
    torch.testing.assert_close(selective_scan(*inputs), selective_scan(*inputs, backend='torch'))


def test_signature_begins_with_mamba_ssms():
    names = list(inspect.signature(selective_scan).parameters)
    assert names[:10] == ['u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'delta_softplus', 'return_last_state']


@KINDS
def test_equal_bits_each_time(backend, dtype, tolerance):
    inputs = [x.to(dtype).requires_grad_() for x in inputs_of(2, 12, 300, 8, 2, False)[:5]]

    def run():
        out = selective_scan(*inputs[:2], -inputs[2].exp(), *inputs[3:], delta_softplus=True, backend=backend)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    first, second = run(), run()
    assert all(torch.isfinite(x).all() for x in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
