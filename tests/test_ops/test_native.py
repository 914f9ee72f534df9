"""What the C++ scan has of its own: vectors that are not full, threads, dtypes, and what it leaves to others.

The grids of shapes and paths are in test_selective_scan.py and test_paths.py.
"""

import pytest
import torch
from helpers import TOLERANCES, compare, inputs_of, path_inputs_of, randn, scan_of, scan_paths_of

from mmvim.ops import backends, scan_paths, selective_scan
from mmvim.ops.selective_scan.arguments import single_path
from mmvim.ops.selective_scan.operators import BACKENDS

_usable, _reason = backends()['native']
pytestmark = pytest.mark.skipif(not _usable, reason=f'native: {_reason}')

TOLERANCE = TOLERANCES[torch.float32]


@pytest.fixture(params=[1, 2, 16])
def threads(request):
    """16 threads for a few channels: L is cut into parts."""
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


def on(threads, scan):
    """The scan on so many threads, forward and backward; the definition, a loop of small steps, on one."""

    def run(*leaves, backend):
        torch.set_num_threads(threads if backend == 'native' else 1)
        return scan(*leaves, backend=backend)

    return run


@pytest.mark.covering(2)
@pytest.mark.parametrize(
    ('batch', 'dim', 'length', 'd_state', 'groups'),
    [(2, 5, 7, 16, 1), (1, 34, 65, 8, 2), (3, 16, 33, 1, 1), (2, 24, 70, 7, 4), (1, 20, 1, 3, 1), (1, 6, 700, 16, 1)],
)
@pytest.mark.parametrize('optional', [False, True], ids=['plain', 'all'])
@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_one_path(batch, dim, length, d_state, groups, optional, reverse, threads):
    inputs = inputs_of(batch, dim, length, d_state, groups, optional)
    compare(on(threads, scan_of(reverse)), inputs, 'native', torch.float32, TOLERANCE)


@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('follow', [('u', 'delta', 'B', 'C'), ()], ids=['all', 'none'])
def test_padding_steps(combine, follow, threads):
    """The parts of L begin and end anywhere in the padded windows."""
    path = scan_paths('window7_padded', 17, 19)[0]
    paths = [path, path.reversed()]
    inputs = list(path_inputs_of(1, (2,), 5, 17 * 19 if follow else path.steps, 3))
    inputs[6] = randn(1, 5, 17 * 19)  # z stands in raster order
    scan = scan_paths_of(paths=paths, follow=follow, combine=combine)
    compare(on(threads, scan), inputs, 'native', torch.float32, TOLERANCE)


@pytest.mark.covering(2)
@pytest.mark.parametrize('follow', [('u', 'delta', 'B', 'C'), ('u',)], ids=['all', 'u'])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@pytest.mark.parametrize('gated', [False, True], ids=['plain', 'gated'])
def test_four_paths(follow, combine, shared, gated, threads):
    height, width, batch, dim, d_state = 13, 31, 1, 20, 5
    orders = scan_paths(('row', 'col', 'row_reverse', 'col_reverse'), height, width)
    scan = scan_paths_of(paths=orders, follow=follow, combine=combine)
    inputs = path_inputs_of(batch, () if shared else (4,), dim, height * width, d_state, gated)
    compare(on(threads, scan), inputs, 'native', torch.float32, TOLERANCE)


def test_channels_last_views_and_half_precision():
    u, delta = (randn(2, 40, 24, seed=s).transpose(1, 2) for s in (0, 1))
    A, B, C = -randn(24, 8).exp(), randn(2, 8, 40), randn(2, 8, 40, seed=1)
    expected = selective_scan(u, delta, A, B, C, delta_softplus=True, backend='reference')
    for dtype, tolerance in ((torch.float32, 5e-6), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)):
        out = selective_scan(
            *(x.to(dtype) for x in (u, delta)),
            A.float(),
            *(x.to(dtype) for x in (B, C)),
            delta_softplus=True,
            backend='native',
        )
        assert out.dtype == dtype and out.stride() == u.stride()
        assert ((out.double() - expected).abs().max() / expected.abs().max()) < tolerance


def test_bfloat16_is_rounded_as_pytorch_rounds():
    u = randn(1, 302, 20).float().transpose(1, 2)
    u[..., 300] = float('nan')
    ones = torch.ones(1, 1, 302)
    arguments = (u, torch.full_like(u, 0.1), -torch.ones(20, 1), ones, ones)
    exact, rounded = (
        selective_scan(*arguments, out_dtype=dtype, backend='native') for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact[0, 0, -2:].isnan().all()
    torch.testing.assert_close(rounded, exact.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_equal_bits_each_time_for_one_number_of_threads(threads):
    inputs = [x.float().requires_grad_() for x in inputs_of(1, 20, 400, 16, 1, False)[:5]]
    results = []
    for _ in range(3):
        out = on(threads, scan_of(last=False))(*inputs, backend='native')
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))


def test_softplus_to_the_last_place():
    """Of every size of result: one step with nothing but delta, so y is softplus and its gradient sigmoid."""
    x = torch.cat([torch.linspace(-86, 100, 9301), torch.linspace(-1, 1, 2001)])
    delta = x.view(1, -1, 1).requires_grad_()
    one, row = torch.ones(1, len(x), 1), torch.ones(1, 1, 1)
    y = selective_scan(one, delta, torch.zeros(len(x), 1), row, row, delta_softplus=True, backend='native')
    (grad,) = torch.autograd.grad(y, delta, one)
    exact = x.double()
    unit = torch.finfo(torch.float32).eps
    torch.testing.assert_close(
        y.flatten().double(), exact.clamp(min=0) + torch.log1p(torch.exp(-exact.abs())), rtol=2.5 * unit, atol=0
    )
    torch.testing.assert_close(grad.flatten().double(), torch.sigmoid(exact), rtol=2.5 * unit, atol=0)


def test_what_it_does_not_take_goes_to_torch():
    u, A = randn(1, 4, 6).float(), -randn(4, 3).exp().float()
    double = [x.double() for x in (u, u, A, randn(1, 3, 6), randn(1, 3, 6))]
    empty = (u[:, :, :0], u[:, :, :0], A, torch.zeros(1, 3, 0), torch.zeros(1, 3, 0))
    for arguments in (double, (u, u, A, randn(4, 3).float(), randn(4, 3).float()), empty):
        args = single_path(*arguments, None, None, None, None, False, False, None)
        assert BACKENDS.select('native', 'cpu', args) == 'torch'
        torch.testing.assert_close(
            selective_scan(*arguments, backend='native'), selective_scan(*arguments, backend='torch')
        )
