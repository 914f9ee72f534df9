"""The C++ scan against the definition: outputs, last states and every gradient."""

import pytest
import torch

from mmvim.ops import backends, scan_paths, selective_scan, selective_scan_paths

_usable, _reason = backends()['native']
pytestmark = pytest.mark.skipif(not _usable, reason=f'native: {_reason}')

TOLERANCE = 2e-6  # of the largest value: float32 against float64


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def worst_error(function, inputs):
    """Largest relative difference of native float32 from float64 by definition, over outputs and gradients."""
    results = []
    for backend, dtype in (('reference', torch.float64), ('native', torch.float32)):
        leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in inputs]
        outputs = function(*leaves, backend=backend)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum((x * randn(*x.shape).to(dtype)).sum() for x in outputs).backward()
        results.append([*outputs, *(x.grad for x in leaves if x is not None)])
    return max(((a - b).abs().max() / (a.abs().max() + 1e-6)).item() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(('batch', 'dim', 'length', 'd_state', 'groups'), [
    (2, 5, 7, 16, 1), (1, 34, 65, 8, 2), (3, 16, 33, 1, 1), (2, 24, 70, 5, 4), (1, 20, 1, 3, 1), (2, 48, 96, 16, 1)])
@pytest.mark.parametrize('optional', [False, True])
@pytest.mark.parametrize('reverse', [False, True])
def test_one_path(batch, dim, length, d_state, groups, optional, reverse):
    def scan(u, delta, A, B, C, D, z, bias, state, backend):
        return selective_scan(u, delta, -A.exp(), B, C, D, z, bias, True, True, reverse=reverse, initial_state=state,
                              backend=backend)
    extra = (randn(dim), randn(batch, dim, length), randn(dim), randn(batch, dim, d_state)) if optional else (None,) * 4
    inputs = (randn(batch, dim, length), randn(batch, dim, length), randn(dim, d_state) * .3,
              randn(batch, groups, d_state, length), randn(batch, groups, d_state, length), *extra)
    assert worst_error(scan, inputs) < TOLERANCE


@pytest.mark.parametrize('paths', ['two', 'four'])
@pytest.mark.parametrize('follow', [('u', 'delta', 'B', 'C'), ('u',)])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('shared', [False, True])
def test_several_paths(paths, follow, combine, shared):
    height, width, batch, dim, d_state = 5, 7, 2, 20, 8
    orders = ('forward', 'reverse') if paths == 'two' else scan_paths(
        ('row', 'col', 'row_reverse', 'col_reverse'), height, width)
    k, length = () if shared else (len(orders),), height * width

    def scan(u, delta, A, B, C, D, z, bias, backend):
        return selective_scan_paths(u, delta, -A.exp(), B, C, D, z, bias, True, paths=orders, follow=follow,
                                    combine=combine, backend=backend)
    inputs = (randn(batch, *k, dim, length), randn(batch, *k, dim, length), randn(*k, dim, d_state) * .3,
              randn(batch, *k, d_state, length), randn(batch, *k, d_state, length), randn(*k, dim),
              randn(batch, dim, length), randn(*k, dim))
    assert worst_error(scan, inputs) < TOLERANCE


def test_channels_last_views_and_half_precision():
    u, delta = (randn(2, 40, 24).transpose(1, 2) for _ in range(2))
    A, B, C = -randn(24, 8).exp(), randn(2, 8, 40), randn(2, 8, 40)
    expected = selective_scan(u.double(), delta.double(), A.double(), B.double(), C.double(), delta_softplus=True,
                              backend='reference')
    out = selective_scan(u, delta, A, B, C, delta_softplus=True, backend='native')
    assert out.stride() == u.stride()
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
    for dtype, tolerance in ((torch.bfloat16, 5e-2), (torch.float16, 5e-3)):
        half = selective_scan(u.to(dtype), delta.to(dtype), A, B.to(dtype), C.to(dtype), delta_softplus=True,
                              backend='native')
        assert half.dtype == dtype
        assert ((half.double() - expected).abs().max() / expected.abs().max()) < tolerance


def test_equal_bits_each_time_and_on_any_number_of_threads():
    inputs = [x.requires_grad_() for x in (randn(2, 70, 50), randn(2, 70, 50), -randn(70, 16).exp().detach(),
                                           randn(2, 16, 50), randn(2, 16, 50))]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2):
            torch.set_num_threads(count)
            out = selective_scan(*inputs, delta_softplus=True, backend='native')
            results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    for a, b in zip(results[0], results[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_what_it_does_not_take_goes_to_torch():
    u, A = randn(1, 4, 6), -randn(4, 3).exp()
    double = [x.double() for x in (u, u, A, randn(1, 3, 6), randn(1, 3, 6))]
    empty = (u[:, :, :0], u[:, :, :0], A, randn(1, 3, 0), randn(1, 3, 0))
    for arguments in (double, (u, u, A, randn(4, 3), randn(4, 3)), empty):
        torch.testing.assert_close(selective_scan(*arguments, backend='native'),
                                   selective_scan(*arguments, backend='torch'))


def test_double_backward_raises():
    u = randn(1, 4, 6).requires_grad_()
    out = selective_scan(u, u, -randn(4, 3).exp(), randn(1, 3, 6), randn(1, 3, 6), backend='native')
    grad, = torch.autograd.grad(out.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.sum(), u)
