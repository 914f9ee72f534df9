"""One path: every shape and option against the definition, and what an operator of PyTorch must keep to."""

import functools
import inspect
import math

import pytest
import torch
from helpers import BACKENDS, DEFINED, HERE, KINDS, TAKES, compare, inputs_of, randn, scan_of

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


@pytest.mark.covering(2)
@pytest.mark.parametrize('shape', SHAPES, ids='B{0[0]}-D{0[1]}-L{0[2]}-N{0[3]}-G{0[4]}'.format)
@pytest.mark.parametrize('optional', [False, True], ids=['plain', 'all'])
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@KINDS
def test_against_the_definition(shape, optional, reverse, backend, dtype, tolerance):
    compare(scan_of(reverse), inputs_of(*shape, optional), backend, dtype, tolerance)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize('shape', SHAPES[2:6:3], ids='B{0[0]}-D{0[1]}-L{0[2]}-N{0[3]}-G{0[4]}'.format)
@BACKENDS
def test_lower_precision(shape, dtype, tolerance, backend):
    compare(scan_of(), inputs_of(*shape, True), backend, dtype, tolerance)


@KINDS
def test_projections_of_every_rank(backend, dtype, tolerance):
    u, delta, A = randn(2, 6, 9), randn(2, 6, 9, seed=1), randn(6, 4)
    for B, C in (
        (randn(6, 4), randn(2, 4, 9)),
        (randn(2, 4, 9), randn(6, 4)),
        (randn(6, 4), randn(6, 4, seed=1)),
        (randn(2, 3, 4, 9), randn(2, 2, 4, 9)),
    ):
        compare(scan_of(), (u, delta, A, B, C), backend, dtype, tolerance)


@DEFINED
def test_the_definition_by_hand(backend, dtype):
    """Two steps of one channel and one state, written out."""
    u, delta, A, B, C = (
        torch.tensor(v, dtype=dtype)
        for v in ([[[2.0, 3.0]]], [[[0.5, 0.25]]], [[-1.0]], [[[4.0, 5.0]]], [[[6.0, 7.0]]])
    )
    h0 = 0.5 * 2 * 4
    h1 = math.exp(-0.25) * h0 + 0.25 * 3 * 5
    out, last = selective_scan(u, delta, A, B, C, torch.ones(1), return_last_state=True, backend=backend)
    torch.testing.assert_close(out, torch.tensor([[[6.0 * h0 + 2, 7 * h1 + 3]]], dtype=out.dtype))
    torch.testing.assert_close(last, torch.tensor([[[h1]]], dtype=last.dtype))


@KINDS
def test_reverse_is_the_scan_of_the_flipped_sequence(backend, dtype, tolerance):
    inputs = [x.to(dtype) for x in inputs_of(2, 6, 11, 4, 2, True)]
    flipped = scan_of()(*(x.flip(-1) if x.ndim > 2 and x.shape[-1] == 11 else x for x in inputs), backend=backend)
    direct = scan_of(reverse=True)(*inputs, backend=backend)
    torch.testing.assert_close(direct[0], flipped[0].flip(-1))
    torch.testing.assert_close(direct[1], flipped[1])


@KINDS
def test_a_sequence_in_two_halves(backend, dtype, tolerance):
    u, delta, A, B, C = (x.to(dtype) for x in inputs_of(2, 6, 20, 4, 1, False)[:5])
    scan = scan_of()
    whole, end = scan(u, delta, A, B, C, backend=backend)
    first, state = scan(u[..., :9], delta[..., :9], A, B[..., :9], C[..., :9], backend=backend)
    second, last = scan(u[..., 9:], delta[..., 9:], A, B[..., 9:], C[..., 9:], state=state, backend=backend)
    torch.testing.assert_close(torch.cat([first, second], -1), whole)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize('backend', [name for name in HERE if torch.float64 in TAKES[name]])
def test_gradcheck(backend):
    inputs = [x.requires_grad_() for x in inputs_of(1, 4, 5, 2, 2, True)]
    assert torch.autograd.gradcheck(functools.partial(scan_of(), backend=backend), inputs)


@KINDS
def test_views_of_any_strides(backend, dtype, tolerance):
    u, delta, A, B, C = (x.to(dtype) for x in inputs_of(2, 6, 19, 4, 1, False)[:5])
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (u, delta, B, C)]
    wide = torch.stack([u, u], dim=-1)[..., 0]
    scan = scan_of(last=False)
    for u2, delta2, B2, C2 in (strided, (wide, delta, B, C), (u, delta[:1].expand(2, -1, -1), B, C)):
        expected = scan(*(x.contiguous() for x in (u2, delta2, A, B2, C2)), backend='reference')
        torch.testing.assert_close(scan(u2, delta2, A, B2, C2, backend=backend), expected)


@BACKENDS
def test_state_stays_float32_and_extremes_do_not_overflow(backend):
    u = torch.full((1, 2, 300), 200.0, dtype=torch.float16)
    out, last = selective_scan(
        u,
        u / 40,
        -torch.ones(2, 4) * 1e-3,
        torch.full((1, 4, 300), 8.0, dtype=torch.float16),
        torch.full((1, 4, 300), 0.02, dtype=torch.float16),
        return_last_state=True,
        out_dtype=torch.float32,
        backend=backend,
    )
    assert out.dtype == last.dtype == torch.float32
    assert torch.isfinite(out).all() and out.max() > 65504  # beyond float16
    ones = torch.ones(1, 4, 300)
    steep = selective_scan(u.float(), u.float(), -torch.ones(2, 4) * 1e4, ones, ones, backend=backend)
    assert torch.isfinite(steep).all()


@BACKENDS
def test_decays_that_under_and_overflow(backend):
    """As the definition in float32 has them."""
    u, ones = torch.ones(1, 1, 3), torch.ones(1, 1, 3)
    for delta, decay in ((0.0, -1.0), (1e30, -1e30), (1e-30, -1e-30), (1.0, -104.0), (1.0, -87.5), (1.0, 60.0)):
        arguments = (u, u * delta, torch.full((1, 1), decay), ones, ones)
        torch.testing.assert_close(
            selective_scan(*arguments, backend=backend),
            selective_scan(*arguments, backend='reference'),
            rtol=1e-5,
            atol=1e-37,
        )


@BACKENDS
def test_what_is_not_a_number_spoils_all_that_follows(backend):
    ones = torch.ones(1, 1, 3)
    spoilt = selective_scan(
        torch.tensor([[[1.0, float('nan'), 1.0]]]), ones, -ones[0, :, :1], ones, ones, backend=backend
    )
    assert spoilt.isnan().tolist() == [[[False, True, True]]]


@BACKENDS
def test_autocast_does_not_reach_the_state(backend):
    u, delta, A, B, C = (x.float() for x in inputs_of(1, 4, 30, 8, 1, False)[:5])
    expected = selective_scan(u, delta, -A.exp(), B, C, backend=backend)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = selective_scan(u, delta, -A.exp(), B, C, backend=backend)
        assert selective_scan(u.bfloat16(), delta, -A.exp(), B, C, backend=backend).dtype == torch.bfloat16
    torch.testing.assert_close(out, expected)


@KINDS
@pytest.mark.parametrize(('batch', 'length'), [(0, 5), (2, 0), (0, 0)])
def test_empty(batch, length, backend, dtype, tolerance):
    inputs = [x.to(dtype).requires_grad_() for x in inputs_of(batch, 4, length, 3, 1, False)[:5]]
    out, last = selective_scan(*inputs, return_last_state=True, backend=backend)
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
        out, last = scan_of()(*inputs, backend=backend)
        return [out, last, *torch.autograd.grad(out.square().sum() + last.sum(), inputs)]

    first, second = run(), run()
    assert all(torch.isfinite(x).all() for x in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


USUAL = {'u': (2, 5, 7), 'delta': (2, 5, 7), 'A': (5, 3), 'B': (2, 3, 7), 'C': (2, 3, 7), 'D': (5,), 'z': (2, 5, 7)}
USUAL |= {'delta_bias': (5,), 'initial_state': (2, 5, 3)}


def usual():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in USUAL.items()}


@pytest.mark.parametrize('left_out', [(), ('D',), ('z', 'initial_state'), ('D', 'z', 'delta_bias', 'initial_state')])
@pytest.mark.parametrize('reverse', [False, True])
def test_usual_arguments_are_brought_into_the_same_form(left_out, reverse, monkeypatch):
    """The short way through the checks, taken by what is float32 on CPUs, gives what the long way does."""
    from mmvim.ops.selective_scan import arguments

    given = {name: None if name in left_out else x for name, x in usual().items()}
    assert arguments._is_usual(*given.values())
    short = arguments.single_path(*given.values(), True, reverse, None)
    monkeypatch.setattr(arguments, '_is_usual', lambda *tensors: False)
    long = arguments.single_path(*given.values(), True, reverse, None)
    for name, a, b in zip(short._fields, short, long, strict=True):
        same = torch.equal(a, b) and a.stride() == b.stride() if isinstance(a, torch.Tensor) else a == b
        assert same and type(a) is type(b), name


@pytest.mark.parametrize('name', USUAL)
@pytest.mark.parametrize('change', ['shape', 'dtype', 'kind', 'device'])
def test_unusual_arguments_take_the_long_way(name, change):
    from mmvim.ops.selective_scan.arguments import _is_usual

    given = usual()
    changed = {
        'shape': torch.randn(*USUAL[name][:-1], USUAL[name][-1] + 1),
        'dtype': given[name].bfloat16(),
        'kind': given[name].numpy(),
        'device': given[name].to('meta'),
    }
    given[name] = changed[change]
    assert not _is_usual(*given.values())


def test_operators_are_called_where_somebody_watches():
    """Without gradients a CPU's kernel is called itself, but not under a mode, in a graph, or with fake tensors."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    given, seen = usual(), []
    with torch.no_grad():
        wanted = selective_scan(**given)
        with Names():
            found = selective_scan(**given)
    assert torch.equal(found, wanted) and 'mmvim::selective_scan_fwd' in seen
    given['u'].requires_grad_()
    assert selective_scan(**given).grad_fn is not None
