"""The served scans, called as upstream calls them, against the definition: outputs and every gradient."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from upstream import mamba_scan, vmamba_scan

from mmvim.ops import selective_scan

pytestmark = pytest.mark.usefixtures('names_served')
VMAMBA = ('selective_scan_cuda_core', 'selective_scan_cuda_oflex', 'selective_scan_cuda_nrow')
VMAMBA += ('selective_scan_cuda_ndstate',)


def inputs(dtype=torch.float64, groups=2, length=37, dim=6, d_state=3, constant=False, gate=True, skip=True):
    """u, delta, A, B, C, D, z, delta_bias; every one wants a gradient."""
    generator = torch.Generator().manual_seed(length + groups)

    def randn(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    projection = (dim, d_state) if constant else (2, groups, d_state, length) if groups else (2, d_state, length)
    found = [
        randn(2, dim, length),
        randn(2, dim, length),
        -randn(dim, d_state, dtype=wide).exp(),
        randn(*projection, dtype=wide if constant else dtype),
        randn(*projection, dtype=wide if constant else dtype),
        randn(dim, dtype=wide) if skip else None,
        randn(2, dim, length) if gate else None,
        randn(dim, dtype=wide) if skip else None,
    ]
    return [None if x is None else x.requires_grad_() for x in found]


def gradients(out, tensors):
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    return torch.autograd.grad(out, [x for x in tensors if x is not None], weights)


def compare(out, tensors, softplus=True, tolerance=1e-12):
    """Compare an output with the definition's, and the gradients of whatever there is."""
    exact = [None if x is None else x.detach().double().requires_grad_() for x in tensors]
    expected = selective_scan(*exact, delta_softplus=softplus, backend='reference')
    assert out.shape == expected.shape and out.is_contiguous()
    pairs = [(out, expected), *zip(gradients(out, tensors), gradients(expected, exact), strict=True)]
    for value, wanted in pairs:
        error = (value.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)  # some are 0
        assert error < tolerance, error.item()


@pytest.mark.parametrize('groups', [0, 1, 2])
@pytest.mark.parametrize('softplus', [False, True])
def test_selective_scan_fn(groups, softplus):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref

    tensors = inputs(groups=groups)
    if not softplus:  # or the state grows without bound
        tensors[1] = tensors[1].detach().abs().requires_grad_()
        tensors[7] = tensors[7].detach().abs().requires_grad_()
    for scan in (selective_scan_fn, selective_scan_ref):
        out, last_state = scan(*tensors, softplus, True)
        compare(out, tensors, softplus)
        expected = selective_scan(*tensors, delta_softplus=softplus, return_last_state=True, backend='reference')[1]
        torch.testing.assert_close(last_state, expected)
    named = dict(zip(('D', 'z', 'delta_bias'), tensors[5:], strict=True))
    u, delta, A, B, C = tensors[:5]
    assert selective_scan_fn(u, delta, A, B, C, **named, delta_softplus=softplus, return_last_state=False).equal(
        selective_scan_fn(*tensors, softplus)
    )


@pytest.mark.parametrize(
    'kind',
    [
        {},
        {'recompute': True, 'own_dz': True},
        {'gate': False},
        {'gate': False, 'skip': False, 'groups': 1},
        {'constant': True},
        {'groups': 0},
        {'length': 1},
        {'dtype': torch.float32, 'tolerance': 2e-5},
        {'dtype': torch.bfloat16, 'gate': False, 'tolerance': 2e-2},
    ],
    ids=str,
)
def test_selective_scan_cuda(kind):
    kind = dict(kind)
    tolerance = kind.pop('tolerance', 1e-12)
    scan = mamba_scan(**{name: kind.pop(name) for name in ('recompute', 'own_dz') if name in kind})
    tensors = inputs(**kind)
    out, last_state = scan(*tensors, True)
    assert out.dtype == tensors[0].dtype
    compare(out, tensors, tolerance=tolerance)
    expected = selective_scan(*tensors, delta_softplus=True, return_last_state=True)[1]
    torch.testing.assert_close(last_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', VMAMBA)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_vmambas_modules(name, dtype):
    flags = (True,) if name.endswith('oflex') else ()
    tensors = inputs(dtype, gate=False, groups=3)
    given = [x for i, x in enumerate(tensors) if i != 6]
    compare(
        vmamba_scan(importlib.import_module(name), *flags)(*given, True),
        tensors,
        tolerance=1e-12 if dtype == torch.float64 else 2e-5,
    )


def test_oflex_returns_float32_of_half_precision():
    import selective_scan_cuda_oflex

    tensors = inputs(torch.bfloat16, gate=False)
    given = [x for i, x in enumerate(tensors) if i != 6]
    out = vmamba_scan(selective_scan_cuda_oflex, True)(*given, True)
    assert out.dtype == torch.float32
    compare(out, tensors, tolerance=2e-2)  # the gradients are rounded, as the inputs are
    exact = selective_scan(*[None if x is None else x.double() for x in tensors], delta_softplus=True)
    assert (out - exact).abs().max() / exact.abs().max() < 1e-5  # the output is not
    assert vmamba_scan(selective_scan_cuda_oflex, False)(*given, True).dtype == torch.bfloat16


def test_x_may_be_copied_but_not_made_up():
    import selective_scan_cuda_core as core

    u, delta, A, B, C, D, _, bias = (None if x is None else x.detach() for x in inputs(gate=False))
    out, x = core.fwd(u, delta, A, B, C, D, bias, True, 1)
    first = core.bwd(u, delta, A, B, C, D, bias, out, x, True, 1)
    again = core.bwd(u, delta, A, B, C, D, bias, out, x.contiguous().clone(), True, 1)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    with pytest.raises(ValueError, match='x must be what fwd returned'):
        core.bwd(u, delta, A, B, C, D, bias, out, x[:, :, -1:], True, 1)
    with pytest.raises(ValueError, match='x must be what fwd returned'):
        core.bwd(u, delta, A, B, C, D, bias, out, x.float(), True, 1)


def test_a_gate_needs_the_output():
    import selective_scan_cuda

    u, delta, A, B, C, D, z, bias = (x.detach() for x in inputs())
    out, x, _ = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, True)
    with pytest.raises(ValueError, match='out must be the first result of fwd'):
        selective_scan_cuda.bwd(u, delta, A, B, C, D, z, bias, out, x, None, None, True, False)


def test_the_environment_may_name_the_reference(monkeypatch):
    monkeypatch.setenv('MMVIM_SCAN_BACKEND', 'reference')
    tensors = inputs()
    compare(mamba_scan()(*tensors, True)[0], tensors)


def weights(E=5, D=4, N=3, R=2, W=4):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        'xz': (2, 2 * D, 9),
        'conv1d_weight': (D, 1, W),
        'conv1d_bias': (D,),
        'x_proj_weight': (R + 2 * N, D),
        'delta_proj_weight': (D, R),
        'out_proj_weight': (E, D),
        'out_proj_bias': (E,),
        'A': (D, N),
        'A_b': (D, N),
        'D': (D,),
        'delta_bias': (D,),
        'B_proj_bias': (N,),
        'C_proj_bias': (N,),
    }
    found = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    found |= {name: -found[name].exp() for name in ('A', 'A_b')}
    return {name: x.requires_grad_() for name, x in found.items()}


def inner_by_hand(w, decay, reverse=False):
    """Input to the last projection, (batch, D, L), by the paper; `reverse` scans the other way."""
    x, z = w['xz'].chunk(2, dim=1)
    taps = w['conv1d_weight'].shape[-1]
    x = F.silu(F.conv1d(F.pad(x, (taps - 1, 0)), w['conv1d_weight'], w['conv1d_bias'], groups=x.shape[1]))
    dt, B, C = torch.einsum('rd,bdl->brl', w['x_proj_weight'], x).split([2, 3, 3], dim=1)
    delta = torch.einsum('dr,brl->bdl', w['delta_proj_weight'], dt)
    B, C = B + w['B_proj_bias'][:, None], C + w['C_proj_bias'][:, None]
    bias = w['delta_bias']
    return selective_scan(x, delta, decay, B, C, w['D'], z, bias, True, reverse=reverse, backend='reference')


@pytest.mark.parametrize(
    'name', ['mamba_inner_fn', 'mamba_inner_ref', 'mamba_inner_fn_no_out_proj', 'bimamba_inner_fn']
)
def test_inner_functions(name):
    interface = importlib.import_module('mamba_ssm.ops.selective_scan_interface')
    w, exact = weights(), weights()
    names = [n for n in w if n not in ('D', 'delta_bias', 'B_proj_bias', 'C_proj_bias')]
    leave = {'out_proj_weight', 'out_proj_bias'} if 'no_out' in name else set()
    leave |= set() if name.startswith('bi') else {'A_b'}
    given = [w[n] for n in names if n not in leave]
    out = getattr(interface, name)(
        *given,
        None,  # B and C that depend on the input
        None,
        w['D'],
        delta_bias=w['delta_bias'],
        B_proj_bias=w['B_proj_bias'],
        C_proj_bias=w['C_proj_bias'],
        delta_softplus=True,
    )
    expected = inner_by_hand(exact, exact['A'])
    if name.startswith('bi'):
        expected = expected + inner_by_hand(exact, exact['A_b'], reverse=True)
    if 'no_out' not in name:
        expected = F.linear(expected.mT, exact['out_proj_weight'], exact['out_proj_bias'])
    torch.testing.assert_close(out, expected)
    kept = [n for n in w if n not in leave]
    for grad, wanted in zip(
        gradients(out, [w[n] for n in kept]), gradients(expected, [exact[n] for n in kept]), strict=True
    ):
        torch.testing.assert_close(grad, wanted)


def test_inner_functions_take_b_and_c():
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    w = weights()
    names = [n for n in w if n not in ('A_b', 'D', 'delta_bias', 'B_proj_bias', 'C_proj_bias')]
    constant = torch.ones(4, 3, dtype=torch.float64)
    out = mamba_inner_fn(*[w[n] for n in names], constant, constant, w['D'], w['delta_bias'])
    assert out.shape == (2, 9, 5) and not out.equal(
        mamba_inner_fn(*[w[n] for n in names], None, None, w['D'], w['delta_bias'])
    )


def test_inner_functions_check_shapes():
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    w = weights()
    names = [n for n in w if n not in ('A_b', 'D', 'delta_bias', 'B_proj_bias', 'C_proj_bias')]
    with pytest.raises(ValueError, match=r'xz must be \(batch, 2D, L\)'):
        mamba_inner_fn(w['xz'][:, :3], *[w[n] for n in names[1:]])
