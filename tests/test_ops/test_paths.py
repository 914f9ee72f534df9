"""Several paths in one call."""

import pytest
import torch
from helpers import KINDS, compare, randn
from test_scan_paths import raster

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


@pytest.mark.parametrize('kind', PATHS)
@pytest.mark.parametrize(
    'follow', [('u', 'delta', 'B', 'C'), ('u',), ('u', 'delta'), ('C',), ()], ids=lambda f: '-'.join(f) or 'none'
)
@pytest.mark.parametrize('combine', ['sum', 'stack'])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@KINDS
def test_against_the_definition(kind, follow, combine, shared, backend, dtype, tolerance):
    k = () if shared else (len(PATHS[kind]),)
    batch, dim, d_state = 2, 6, 3

    def scan(u, delta, A, B, C, D, z, bias, backend):
        return selective_scan_paths(
            u,
            delta,
            -A.exp(),
            B,
            C,
            D,
            z,
            bias,
            True,
            paths=PATHS[kind],
            follow=follow,
            combine=combine,
            backend=backend,
        )

    inputs = (
        randn(batch, *k, dim, LENGTH),
        randn(batch, *k, dim, LENGTH, seed=1),
        randn(*k, dim, d_state) * 0.3,
        randn(batch, *k, d_state, LENGTH),
        randn(batch, *k, d_state, LENGTH, seed=2),
        randn(*k, dim),
        randn(batch, dim, LENGTH, seed=3),
        randn(*k, dim, seed=4),
    )
    compare(scan, inputs, backend, dtype, tolerance)


@pytest.mark.parametrize('kind', PATHS)
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@KINDS
def test_groups_of_several_paths(kind, shared, backend, dtype, tolerance):
    k, count = (1 if shared else len(PATHS[kind])), 2

    def scan(u, delta, A, B, C, backend):
        return selective_scan_paths(u, delta, -A.exp(), B, C, paths=PATHS[kind], backend=backend)

    inputs = (
        randn(2, 6, LENGTH),
        randn(2, 6, LENGTH, seed=1).abs(),
        randn(6, 3) * 0.3,
        randn(2, k, count, 3, LENGTH),
        randn(2, k, count, 3, LENGTH, seed=2),
    )
    compare(scan, inputs, backend, dtype, tolerance)


@KINDS
def test_a_map_of_other_strides(backend, dtype, tolerance):
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    strided = torch.stack([order, torch.full_like(order, 1 << 40)], dim=1)[:, 0]

    def scan(u, delta, A, B, C, backend):
        return selective_scan_paths(u, delta, -A.exp(), B, C, paths=[strided], backend=backend)

    inputs = (
        randn(2, 6, LENGTH),
        randn(2, 6, LENGTH, seed=1).abs(),
        randn(6, 3),
        randn(2, 3, LENGTH),
        randn(2, 3, LENGTH),
    )
    compare(scan, inputs, backend, dtype, tolerance)


@pytest.mark.parametrize('kind', PATHS)
@pytest.mark.parametrize('backend', ['torch', 'reference'])
def test_equals_single_scans_of_permuted_copies(kind, backend):
    """The definition itself: permute, scan, put back, add."""
    count = len(PATHS[kind])
    u, delta = randn(2, 6, LENGTH), randn(2, count, 6, LENGTH)
    A, B, C = -randn(count, 6, 3).exp(), randn(2, count, 3, LENGTH), randn(2, count, 3, LENGTH, seed=1)
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


def test_only_u_follows():
    """PlainMamba's scan: u is permuted, delta, B and C are not, and the output is put back."""
    order = PATHS['indices'][0]
    u, delta, A, B, C = (
        randn(1, 4, LENGTH),
        randn(1, 4, LENGTH, seed=1),
        -randn(4, 2).exp(),
        *(randn(1, 2, LENGTH, seed=s) for s in (2, 3)),
    )
    y = selective_scan(u[..., order], delta, A, B, C, delta_softplus=True, backend='reference')
    expected = torch.empty_like(y).index_copy(-1, order, y)
    out = selective_scan_paths(u, delta, A, B, C, delta_softplus=True, paths=[order], follow=('u',))
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
