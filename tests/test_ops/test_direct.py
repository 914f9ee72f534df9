"""Calls that nobody watches: the same numbers as through the operators, in eager mode past PyTorch's dispatcher."""

import pytest
import torch
from helpers import randn
from torch.utils.checkpoint import checkpoint

from mmvim.ops import ScanPath, scan_paths, selective_scan, selective_scan_paths
from mmvim.ops.selective_scan import direct, recipes

B, D, L, N = 2, 6, 9, 3
CROSS = ('row', 'col', 'row_reverse')


@pytest.fixture(autouse=True)
def no_recipes():
    recipes.clear()
    yield
    recipes.clear()


def single(**change):
    given = {
        'u': randn(B, L, D).mT,
        'delta': randn(B, L, D, seed=1).mT,
        'A': -randn(D, N, seed=2).exp(),
        'B': randn(B, L, N, seed=3).mT,
        'C': randn(B, L, N, seed=4).mT,
        'D': randn(D, seed=5),
        'z': randn(B, L, D, seed=6).mT,
        'delta_bias': randn(D, seed=7),
        'initial_state': randn(B, D, N, seed=8),
    }
    given = {name: x.float() for name, x in given.items()} | change
    return {name: x for name, x in given.items() if x is not None}


def several():
    k = len(CROSS)
    given = {'u': randn(B, L, D).mT, 'delta': randn(B, k, L, D, seed=1).mT, 'A': -randn(D, N, seed=2).exp()}
    given |= {'B': randn(B, k, L, N, seed=3).mT, 'C': randn(B, L, N, seed=4).mT, 'D': randn(k, D, seed=5)}
    given |= {'z': randn(B, L, D, seed=6).mT, 'delta_bias': randn(D, seed=7)}
    return {name: x.float() for name, x in given.items()}


CASES = {
    'all': (selective_scan, single(), {'return_last_state': True, 'delta_softplus': True}),
    'half A and B': (selective_scan, single(A=-randn(D, N).exp().half(), B=randn(B, N, L).half()), {}),
    'constant B': (selective_scan, single(B=randn(D, N).float()), {}),
    'unequal groups': (selective_scan, single(B=randn(B, 2, N, L).float(), C=randn(B, 3, N, L).float()), {}),
    'bare': (selective_scan, single(D=None, z=None, delta_bias=None, initial_state=None), {'reverse': True}),
    'paths': (selective_scan_paths, several(), {'paths': CROSS, 'combine': 'sum'}),
    'stacked': (selective_scan_paths, several(), {'paths': CROSS, 'combine': 'stack', 'follow': ['u']}),
}
EACH = pytest.mark.parametrize('name', CASES)


def run(name, backend='torch', **more):
    """Outputs and the gradients of all inputs."""
    function, given, options = CASES[name]
    options = {**options, **more}
    if function is selective_scan_paths:
        options['paths'] = scan_paths(CROSS, 3, 3)
    leaves = {key: x.detach().requires_grad_() for key, x in given.items()}
    out = function(**leaves, **options, backend=backend)
    outputs = out if isinstance(out, tuple) else (out,)
    loss = sum(x.float().square().sum() for x in outputs)
    return [*outputs, *torch.autograd.grad(loss, list(leaves.values()))]


@EACH
def test_as_through_the_operators(name, monkeypatch):
    found = [run(name), run(name)]  # the second one by a recipe
    monkeypatch.setattr(direct, 'is_watched', lambda: True)
    for x, y, z in zip(run(name), *found, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype and x.stride() == y.stride()
        assert torch.equal(x, y) and torch.equal(x, z)


@EACH
def test_without_gradients(name, monkeypatch):
    with torch.no_grad():
        function, given, options = CASES[name]
        if function is selective_scan_paths:
            options = {**options, 'paths': scan_paths(CROSS, 3, 3)}
        found = function(**given, **options, backend='torch')
        monkeypatch.setattr(direct, 'is_watched', lambda: True)
        wanted = function(**given, **options, backend='torch')
    found, wanted = (x if isinstance(x, tuple) else (x,) for x in (found, wanted))
    for x, y in zip(found, wanted, strict=True):
        assert torch.equal(x, y) and x.stride() == y.stride() and not x.requires_grad


@pytest.mark.parametrize('backend', ['torch', 'reference'])
def test_where_gradients_are_wanted_of_some(backend):
    given = single(delta_bias=None)
    given['A'].requires_grad_()
    out, last = selective_scan(**given, return_last_state=True, backend=backend)
    (grad,) = torch.autograd.grad(last.sum(), given['A'], retain_graph=True)  # the output is not used
    assert grad.shape == given['A'].shape and grad.any()
    (more,) = torch.autograd.grad(out.sum(), given['A'])
    assert more.any() and not torch.equal(grad, more)


def test_a_second_derivative_is_refused():
    given = {name: x.requires_grad_() for name, x in single().items()}
    out = selective_scan(**given, backend='torch')
    (grad,) = torch.autograd.grad(out.sum(), given['u'], create_graph=True)
    with pytest.raises(RuntimeError, match='second derivatives of the selective scan are not implemented'):
        grad.sum().backward()


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing(reentrant):
    given = single(initial_state=None)
    leaves = [x.requires_grad_() for x in given.values()]

    def scan(*tensors):
        return selective_scan(*tensors, True, backend='torch')

    wanted = torch.autograd.grad(scan(*leaves).square().sum(), leaves)
    for x in leaves:
        x.grad = None
    checkpoint(scan, *leaves, use_reentrant=reentrant).square().sum().backward()
    assert all(torch.equal(x.grad, y) for x, y in zip(leaves, wanted, strict=True))


def test_what_is_kept_goes_through_hooks():
    """Such as those that move saved tensors to the CPU."""
    given = {name: x.requires_grad_() for name, x in single().items()}
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x.shape) or x, lambda x: x):
        selective_scan(**given, backend='torch')
    assert (B, 1, D, L) in packed


@pytest.mark.parametrize('turn', ['first', 'by a recipe'])
def test_a_change_of_what_is_kept_is_noticed(turn):
    given = {name: x.requires_grad_() for name, x in single().items()}
    for _ in range(1 if turn == 'first' else 2):
        out = selective_scan(**given, backend='torch')
    with torch.no_grad():
        given['B'].mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_recipes_are_for_calls_of_a_kind(monkeypatch):
    checked = []
    monkeypatch.setattr(recipes, '_view', lambda *x, real=recipes._view: checked.append(1) or real(*x))
    given = single()
    with torch.no_grad():
        first = selective_scan(**given, backend='torch')
        count = len(checked)
        assert torch.equal(selective_scan(**given, backend='torch'), first) and len(checked) == count
        twice = selective_scan(**{**given, 'u': given['u'] * 2}, backend='torch')
        assert len(checked) == count and not torch.equal(twice, first)
        for change in (
            {'reverse': True},
            {'out_dtype': torch.float16},
            {'u': given['u'].contiguous()},
            {'C': given['C'].half()},
            {'z': None},
        ):
            selective_scan(**{**given, **change}, backend='torch')
        assert len(recipes._RECIPES) == 6


def test_wrong_calls_are_refused_after_right_ones():
    given = single()
    selective_scan(**given, backend='torch')
    with pytest.raises(ValueError, match='delta must have shape'):
        selective_scan(**{**given, 'delta': given['delta'][..., 1:]}, backend='torch')
    with pytest.raises(TypeError, match='out_dtype must be'):
        selective_scan(**given, out_dtype=['float32'], backend='torch')
    assert len(recipes._RECIPES) == 1


def test_other_maps_have_other_recipes():
    given = several()
    given['delta'], given['B'], given['D'] = given['delta'][:, :1], given['B'][:, :1], given['D'][:1]

    def along(path):
        return selective_scan_paths(**given, paths=[path], backend='torch')

    orders = [torch.randperm(L, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    found = [along(ScanPath.from_index(order)) for order in orders]
    again = [along(order) for order in orders]
    assert not torch.equal(*found) and all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    assert len(recipes._RECIPES) == 2  # tensors of the user's own are checked each time


def test_recipes_are_few(monkeypatch):
    monkeypatch.setattr(recipes, 'MOST_RECIPES', 2)
    for length in range(3, 8):
        u = torch.zeros(1, 2, length)
        selective_scan(u, u, -torch.ones(2, 1), u[:, :1], u[:, :1], backend='torch')
    assert [recipe.rest[4] for recipe in recipes._RECIPES.values()] == [6, 7]
