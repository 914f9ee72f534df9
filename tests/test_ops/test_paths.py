"""Several paths in one call."""

import pytest
import torch
from helpers import DEFINED, KINDS, compare, path_inputs_of, randn, scan_paths_of
from orders_by_hand import raster

from mmvim.ops import cross_scan, selective_scan, selective_scan_paths

H, W = 4, 5
LENGTH = H * W

PATHS = {
    'vim': ('forward', 'reverse'),
    'twice': ('forward', 'forward'),
    'cross': tuple(cross_scan(H, W)),
    'indices': tuple(torch.randperm(LENGTH, generator=torch.Generator().manual_seed(i)) for i in range(3)),
}


def orders(kind):
    if kind == 'indices':
        return list(PATHS[kind])
    cross = ('row', 'col', 'row_reverse', 'col_reverse')
    names = {'vim': ('row', 'row_reverse'), 'twice': ('row', 'row'), 'cross': cross}[kind]
    return [torch.tensor(raster(name, H, W)) for name in names]


@pytest.mark.covering(2)
@pytest.mark.parametrize('kind', PATHS)
@pytest.mark.parametrize(
    'follow', [('u', 'delta', 'B', 'C'), ('u',), ('u', 'delta'), ('C',), ()], ids=lambda f: '-'.join(f) or 'none'
)
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@KINDS
def test_against_the_definition(kind, follow, combine, shared, backend, dtype, tolerance):
    scan = scan_paths_of(paths=PATHS[kind], follow=follow, combine=combine)
    inputs = path_inputs_of(2, () if shared else (len(PATHS[kind]),), 6, LENGTH, 3)
    compare(scan, inputs, backend, dtype, tolerance)


@pytest.mark.covering(2)
@pytest.mark.parametrize('kind', PATHS)
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@KINDS
def test_groups_of_several_paths(kind, shared, backend, dtype, tolerance):
    k, count = (1 if shared else len(PATHS[kind])), 2
    inputs = (
        randn(2, 6, LENGTH),
        randn(2, 6, LENGTH, seed=1).abs(),
        randn(6, 3) * 0.3,
        randn(2, k, count, 3, LENGTH),
        randn(2, k, count, 3, LENGTH, seed=2),
    )
    compare(scan_paths_of(paths=PATHS[kind]), inputs, backend, dtype, tolerance)


@KINDS
def test_a_map_of_other_strides(backend, dtype, tolerance):
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    strided = torch.stack([order, torch.full_like(order, 1 << 40)], dim=1)[:, 0]
    inputs = (
        randn(2, 6, LENGTH),
        randn(2, 6, LENGTH, seed=1).abs(),
        randn(6, 3),
        randn(2, 3, LENGTH),
        randn(2, 3, LENGTH),
    )
    compare(scan_paths_of(paths=[strided]), inputs, backend, dtype, tolerance)


@pytest.mark.parametrize('kind', PATHS)
@DEFINED
def test_equals_single_scans_of_permuted_copies(kind, backend, dtype):
    """The definition itself: permute, scan, put back, add."""
    count = len(PATHS[kind])
    u, delta = randn(2, 6, LENGTH).to(dtype), randn(2, count, 6, LENGTH).to(dtype)
    A, B, C = (
        -randn(count, 6, 3).exp().to(dtype),
        *(randn(2, count, 3, LENGTH, seed=seed).to(dtype) for seed in (0, 1)),
    )
    total = 0
    for k, order in enumerate(orders(kind)):
        y = selective_scan(
            u[..., order],
            delta[:, k][..., order],
            A[k],
            B[:, k][..., order],
            C[:, k][..., order],
            delta_softplus=True,
            backend='reference',
        )
        total = total + torch.empty_like(y).index_copy(-1, order, y)
    out = selective_scan_paths(u, delta, A, B, C, delta_softplus=True, paths=PATHS[kind], backend=backend)
    torch.testing.assert_close(out, total)


@DEFINED
def test_only_u_follows(backend, dtype):
    """PlainMamba's scan: u is permuted, delta, B and C are not, and the output is put back."""
    order = PATHS['indices'][0]
    u, delta, B, C = (randn(1, n, LENGTH, seed=s).to(dtype) for s, n in enumerate((4, 4, 2, 2)))
    A = -randn(4, 2).exp().to(dtype)
    y = selective_scan(u[..., order], delta, A, B, C, delta_softplus=True, backend='reference')
    expected = torch.empty_like(y).index_copy(-1, order, y)
    options = {'delta_softplus': True, 'paths': [order], 'follow': ('u',), 'backend': backend}
    out = selective_scan_paths(u, delta, A, B, C, **options)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'paths': ()}, 'paths'),
        ({'paths': ('sideways',)}, 'sideways'),
        ({'paths': (torch.arange(3),)}, 'paths'),
        ({'paths': (torch.zeros(LENGTH, dtype=torch.long),)}, 'exactly once'),
        ({'follow': ('x',)}, 'follow'),
        ({'combine': 'mean'}, 'combine'),
    ],
)
def test_bad_paths(arguments, words):
    u = torch.zeros(1, 2, LENGTH)
    with pytest.raises((ValueError, TypeError), match=words):
        selective_scan_paths(
            u,
            u,
            torch.zeros(2, 1),
            torch.zeros(1, 1, LENGTH),
            torch.zeros(1, 1, LENGTH),
            **{'paths': ('forward',), **arguments},
        )
