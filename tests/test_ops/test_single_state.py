"""The scan's own way for one state: its tree over the steps, its chunks along a path, and what only it treats apart."""

import pytest
import torch
from helpers import compare, randn

from mmvim.ops import cross_scan, selective_scan, selective_scan_paths, zigzag_scan
from mmvim.ops.selective_scan.plan import Tuning, plan_paths_apart
from mmvim.ops.selective_scan.tree_scan import TreeScan
from mmvim.ops.selective_scan.walk import Followed, Walk


@pytest.mark.parametrize('descending', [False, True], ids=['ascending', 'descending'])
@pytest.mark.parametrize('keep', [False, True], ids=['in place', 'keep'])
@pytest.mark.parametrize('steps', [1, 2, 3, 7, 8, 13, 64, 101])
def test_tree(steps, keep, descending):
    x, a, before = randn(2, steps, 1, 3), randn(2, steps, 1, 3, seed=1).tanh(), randn(2, 1, 3, seed=2)
    got, factors = x.clone(), a.clone()
    scan = TreeScan(got, factors, before, descending, torch.full_like(x, torch.nan) if keep else None)
    scan.run()
    state, order = before, range(steps - 1, -1, -1) if descending else range(steps)
    for t in order:
        state = x[:, t] + a[:, t] * state
        torch.testing.assert_close(got[:, t], state, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scan.last, state, rtol=1e-12, atol=1e-12)
    assert not keep or torch.equal(factors, a)


@pytest.mark.parametrize(('H', 'W'), [(7, 7), (5, 12), (12, 5), (1, 9), (9, 1), (2, 2), (53, 2)])
@pytest.mark.parametrize('target', [1, 3, 7, 8, 25, 1000])
def test_a_walk_reads_every_step_once_and_in_order(H, W, target):
    length = H * W
    x = torch.arange(3 * length).view(3, length)
    for path in (*cross_scan(H, W)[:2], *zigzag_scan(H, W)[::2]):
        walk = Walk(length, path.index, target, 2)
        assert len(walk.shapes) <= -(-length // target)
        followed = Followed(x, walk, x.dtype)
        for block, rows in enumerate(x.split(2)):
            chunks = [followed.read(block, i) for i in range(len(walk.shapes))]
            assert [tuple(chunk.shape[1:]) for chunk in chunks] == walk.shapes
            assert torch.equal(torch.cat([chunk.flatten(1) for chunk in chunks], dim=1), rows[:, path.order()])


@pytest.mark.parametrize('length', [0, 1, 49, 197, 3136])
@pytest.mark.parametrize('single', [1, 100, 9 << 12])
def test_a_plan_has_room_for_every_chunk(length, single):
    plan = plan_paths_apart(3, 2, 50, length, Tuning(0, 0, 0, single))
    assert [c for s in plan.channels for c in range(50)[s]] == list(range(50))
    assert plan.batch >= 1 and plan.num_chunks * plan.steps >= length


@pytest.mark.parametrize('paths', [cross_scan(5, 6), zigzag_scan(5, 6)], ids=['views', 'gathered'])
@pytest.mark.parametrize('combine', ['sum', 'stack'])
def test_half_precision_is_read_as_what_it_is(paths, combine):
    def scan(u, delta, A, B, C, D, bias, backend):
        u, delta, B, C = (x.bfloat16() for x in (u, delta, B, C))
        return selective_scan_paths(
            u,
            delta,
            -A.exp(),
            B,
            C,
            D,
            None,
            bias,
            True,
            paths=paths,
            combine=combine,
            out_dtype=torch.float32,
            backend=backend,
        )

    b, d, length, k = 2, 6, 30, 4
    inputs = [
        x.bfloat16()
        for x in (
            randn(b, k, d, length),
            randn(b, k, d, length, seed=1),
            randn(k, d, 1) * 0.3,
            randn(b, k, 1, length),
            randn(b, k, 1, length, seed=2),
            randn(k, d),
            randn(k, d, seed=4),
        )
    ]
    found = {}
    for backend in ('reference', 'torch'):
        leaves = [x.float().requires_grad_() for x in inputs]
        out = scan(*leaves, backend=backend)
        found[backend] = [out, *torch.autograd.grad((out * randn(*out.shape).float()).sum(), leaves)]
    for number, (expected, got) in enumerate(zip(*found.values(), strict=True)):
        # Gradients of half-precision tensors are rounded to it.
        error = (got - expected).abs().max() / expected.abs().max()
        assert error < (1e-5 if number in (0, 3, 6, 7) else 8e-3), number


@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('reverse', [True, False])
def test_states_groups_and_a_gradient_that_is_expanded(softplus, reverse):
    def scan(u, delta, A, B, C, D, bias, state, backend):
        out, last = selective_scan(
            u,
            delta.abs(),
            -A.exp(),
            B,
            C,
            D,
            None,
            bias.abs(),
            softplus,
            True,
            initial_state=state,
            reverse=reverse,
            backend=backend,
        )
        return out.sum(), last

    b, d, length, g = 3, 6, 29, 2
    compare(
        scan,
        (
            randn(b, d, length),
            randn(b, d, length, seed=1),
            randn(d, 1) * 0.3,
            randn(b, g, 1, length),
            randn(b, g, 1, length, seed=2),
            randn(d),
            randn(d, seed=4),
            randn(b, d, 1),
        ),
        'torch',
        torch.float64,
        1e-12,
    )


@pytest.mark.parametrize(('batch', 'length'), [(0, 6), (2, 0), (0, 0)])
@pytest.mark.parametrize('mapped', [False, True])
def test_nothing_to_scan(batch, length, mapped):
    paths = [torch.arange(length).flip(0), 'reverse'] if mapped else ['forward', 'reverse']
    leaves = [
        x.requires_grad_()
        for x in (
            randn(batch, 4, length),
            randn(batch, 2, 4, length),
            randn(2, 4, 1),
            randn(batch, 2, 1, length),
            randn(batch, 2, 1, length),
            randn(2, 4),
        )
    ]
    out = selective_scan_paths(*leaves, delta_softplus=True, paths=paths, backend='torch')
    assert out.shape == (batch, 4, length)
    for x, grad in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert torch.equal(grad, torch.zeros_like(x))


def test_softplus_does_not_overflow():
    ones = torch.ones(1, 3, 9)
    out = selective_scan(
        ones, 200 * ones, -torch.rand(3, 1), ones[:, :1], ones[:, :1], delta_softplus=True, backend='torch'
    )
    assert torch.allclose(out[..., 0], torch.tensor(200.0)) and out.isfinite().all()
