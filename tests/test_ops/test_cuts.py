"""How the chunked scan is cut changes its speed only: every cut against the definition."""

import itertools

import pytest
import torch
from helpers import compare, randn

from mmvim.ops import cross_scan, selective_scan, selective_scan_paths, zigzag_scan
from mmvim.ops.selective_scan import problem
from mmvim.ops.selective_scan.plan import Tuning, make_plan, tuning

# State values of a step below which segments are joined, of a step at most, of a chunk, of a chunk where N is 1.
CUTS = {
    'single steps': Tuning(join=0, step=1 << 20, chunk=1, single=1),
    'chunks': Tuning(join=0, step=1 << 20, chunk=700, single=700),
    'slabs of a batch element': Tuning(join=0, step=48, chunk=300, single=192),
    'slabs of a channel': Tuning(join=0, step=5, chunk=30, single=12),
    'segments': Tuning(join=1 << 20, step=1 << 20, chunk=1500, single=100),
    'segments of slabs': Tuning(join=1 << 10, step=24, chunk=600, single=250),
    'all at once': Tuning(join=0, step=1 << 30, chunk=1 << 30, single=1 << 30),
}


@pytest.fixture(params=CUTS.values(), ids=CUTS.keys())
def cut(request, monkeypatch):
    monkeypatch.setattr(problem, 'tuning', lambda device, threads: request.param)
    return request.param


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_one_path(cut, reverse):
    def scan(u, delta, A, B, C, D, z, bias, state, backend):
        return selective_scan(
            u, delta, -A.exp(), B, C, D, z, bias, True, True, reverse=reverse, initial_state=state, backend=backend
        )

    b, d, length, n, g = 2, 6, 53, 4, 2
    compare(
        scan,
        (
            randn(b, d, length),
            randn(b, d, length, seed=1),
            randn(d, n) * 0.3,
            randn(b, g, n, length),
            randn(b, g, n, length, seed=2),
            randn(d),
            randn(b, d, length, seed=3),
            randn(d, seed=4),
            randn(b, d, n),
        ),
        'torch',
        torch.float64,
        1e-12,
    )


@pytest.mark.parametrize('d_state', [1, 3])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@pytest.mark.parametrize(
    ('follow', 'combine'),
    [(('u', 'delta', 'B', 'C'), 'sum'), (('u', 'delta', 'B', 'C'), 'stack'), (('u',), 'sum'), (('delta', 'C'), 'sum')],
    ids=['all-sum', 'all-stack', 'u', 'delta-C'],
)
def test_four_paths(cut, d_state, shared, follow, combine):
    H, W, b, d = 5, 7, 2, 6
    length, k = H * W, 4
    lead = (b,) if shared else (b, k)
    per_path = () if shared else (k,)
    for paths in (cross_scan(H, W), zigzag_scan(H, W)):

        def scan(u, delta, A, B, C, D, z, bias, backend, paths=paths):
            return selective_scan_paths(
                u, delta, -A.exp(), B, C, D, z, bias, True, paths=paths, follow=follow, combine=combine, backend=backend
            )

        compare(
            scan,
            (
                randn(*lead, d, length),
                randn(*lead, d, length, seed=1),
                randn(*per_path, d, d_state) * 0.3,
                randn(*lead, d_state, length),
                randn(b, k, d_state, length, seed=2),
                randn(*per_path, d),
                randn(b, d, length, seed=3),
                randn(*per_path, d, seed=4),
            ),
            'torch',
            torch.float64,
            1e-12,
        )


@pytest.mark.parametrize('length', [1, 2, 7, 49, 63, 196, 197, 3136])
@pytest.mark.parametrize('backward', [[False], [False, True], [False, True, False, True], [True, False, False, True]])
def test_a_plan_covers_everything_once(length, backward):
    for tune in (*CUTS.values(), tuning(torch.device('cpu'), 1), tuning(torch.device('cpu'), 8)):
        plan = make_plan(backward, 3, 2, 4, 5, length, tune)
        steps = [chunk.start + i for chunk in plan.chunks for i in range(chunk.size)]
        assert steps == list(range(length))
        cells = [
            cell
            for slab in plan.slabs
            for cell in itertools.product(
                range(len(backward))[slab.paths], range(3)[slab.batch], range(5)[slab.channels]
            )
        ]
        assert sorted(cells) == list(itertools.product(range(len(backward)), range(3), range(5)))
        assert all(backward[k] == slab.backward for slab in plan.slabs for k in range(len(backward))[slab.paths])


def test_the_cut_is_that_of_the_forward_pass_whatever_the_threads_later():
    inputs = [
        x.float().requires_grad_()
        for x in (
            randn(2, 64, 200),
            randn(2, 64, 200, seed=1),
            randn(64, 8),
            randn(2, 8, 200),
            randn(2, 8, 200, seed=2),
        )
    ]
    threads = torch.get_num_threads()

    def grads(at_forward, at_backward):
        try:
            torch.set_num_threads(at_forward)
            out = selective_scan(
                *inputs[:2], -0.01 * inputs[2].exp(), *inputs[3:], delta_softplus=True, backend='torch'
            )
            torch.set_num_threads(at_backward)
            return torch.autograd.grad(out.square().sum(), inputs)
        finally:
            torch.set_num_threads(threads)

    cuts = [make_plan([False], 2, 1, 8, 64, 200, tuning(torch.device('cpu'), n)).chunks for n in (1, 4)]
    assert cuts[0] != cuts[1]  # or this test sees nothing
    for expected, got in zip(grads(1, 1), grads(1, 4), strict=True):
        torch.testing.assert_close(got, expected)
