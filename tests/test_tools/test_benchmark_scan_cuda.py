"""The GPU script's implementations agree, shown on the CPU; its limits count what they say."""

import dataclasses
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmark_scan_cuda

    return benchmark_scan_cuda


@pytest.fixture
def peers(script):
    import scan_peers

    scan_peers.mamba_ssm.cache_clear()
    yield scan_peers
    scan_peers.mamba_ssm.cache_clear()


def scan_by_torch(u, delta, A, B, C, D, z, bias):
    from mmvim.ops import selective_scan

    return selective_scan(u, delta, A, B, C, D, z, bias, True, backend='torch')


@pytest.mark.parametrize('kind', ['vim', 'cross', 'one'])
@pytest.mark.parametrize('steps_fastest', [True, False])
def test_copies_compute_the_same(script, peers, kind, steps_fastest):
    """Outputs and gradients; and each kernel is given what it reads, in its memory order."""
    scan = {
        'vim': script.Scan('', 2, 6, 12, 3, script.VIM, True),
        'cross': script.Scan('', 2, 4, 12, 2, script.CROSS, grid=(3, 4)),
        'one': script.Scan('', 1, 4, 7, 2),
    }[kind]
    kernel = peers.published_kernel(scan_by_torch) if steps_fastest else peers.own_kernel('torch')
    seen = []

    def watched(function):
        def run(*tensors):
            read = [tensors[i] for i in (0, 1, 3, 4)] + ([] if len(tensors) < 8 or tensors[6] is None else [tensors[6]])
            seen.extend(x.stride(-1 if steps_fastest else -2) for x in read)
            return function(*tensors)

        return run

    way = peers.with_copies(
        scan.paths, scan.grid, peers.Kernel(watched(kernel.single), watched(kernel.several), steps_fastest)
    )
    for batch in (scan.batch, 1):  # one picture is what check() compares
        inputs = script.make_inputs(dataclasses.replace(scan, batch=batch), torch.float32, 'cpu')
        leaves = [x.requires_grad_() for x in inputs.values() if x is not None]
        found, expected = way.run(**way.prepare(**inputs)), script.ours(scan, 'torch')(**inputs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        weight = torch.linspace(-1, 1, found.numel()).view_as(found)
        for a, b in zip(*(torch.autograd.grad(y, leaves, weight) for y in (found, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert set(seen) == {1}


def test_limits(script):
    scan = script.Scan('', 2, 4, 8, 3, script.VIM)
    inputs = script.make_inputs(scan, torch.float16, 'cpu')
    read = 2 * (2 * 2 * 2 * 8 * 4 + 2 * 2 * 2 * 8 * 3) + 4 * (2 * 4 * 3 + 2 * 4 + 2 * 4)
    elements = 2 * 2 * 4 * 8
    assert script.limits(scan, inputs, False, 1e3, 1e3) == (read + 2 * 2 * 4 * 8, elements * 5)
    assert script.limits(scan, inputs, True, 1e3, 1e3) == (3 * read + 2 * 2 * 2 * 4 * 8, elements * 12)


def test_a_peer_that_is_missing_is_told(script, peers, monkeypatch):
    if any(importlib.util.find_spec(name) for name in ('mamba_ssm', 'selective_scan_cuda')):
        pytest.skip('mamba_ssm is installed')
    assert peers.mamba_ssm() == (None, 'not installed')
    assert 'mamba_ssm' not in script.implementations(script.shapes()[0])
    peers.mamba_ssm.cache_clear()
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', types.ModuleType('selective_scan_cuda'))
    assert peers.mamba_ssm()[1] == 'selective_scan_cuda alone'
    assert 'mamba_ssm' in script.implementations(script.shapes()[0])


@pytest.mark.parametrize('kind', ['gated', 'plain', 'cross'])
def test_bare_kernel(script, peers, kind):
    """Its arguments go to the compiled module in their order and as it reads them, its results to the right inputs."""
    scan = scan_by_torch

    class Module:
        @staticmethod
        def fwd(u, delta, A, B, C, D, z, bias, softplus):
            assert softplus is True and B.dim() == C.dim() == 4
            assert all(x is None or x.stride(-1) == 1 for x in (u, delta, A, B, C, D, z, bias))
            out = scan(u, delta, A, B, C, D, None, bias)
            return (out, u.new_zeros(1)) if z is None else (out, u.new_zeros(1), scan(u, delta, A, B, C, D, z, bias))

        @staticmethod
        def bwd(u, delta, A, B, C, D, z, bias, grad, states, out, dz, softplus, recompute):
            assert states.shape == (1,) and (out is None) == (z is None) and dz is None and softplus and not recompute
            inputs = [None if x is None else x.detach().requires_grad_() for x in (u, delta, A, B, C, D, z, bias)]
            with torch.enable_grad():
                grads = iter(torch.autograd.grad(scan(*inputs), [x for x in inputs if x is not None], grad))
            du, ddelta, dA, dB, dC, dD, *dz, dbias = grads
            return (du, ddelta, dA, dB, dC, dD, dbias, *dz)

    found = (
        script.Scan('', 2, 6, 12, 3, script.CROSS, grid=(3, 4))
        if kind == 'cross'
        else script.Scan('', 2, 6, 7, 3, script.VIM, kind == 'gated')
    )
    inputs = {
        name: None if x is None else x.requires_grad_()
        for name, x in script.make_inputs(found, torch.float32, 'cpu').items()
    }
    leaves = [x for x in inputs.values() if x is not None]
    way = peers.with_copies(found.paths, found.grid, peers.published_kernel(peers.bare_kernel(Module)))
    both = [way.run(**way.prepare(**inputs)), script.ours(found, 'torch')(**inputs)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    weight = torch.linspace(-1, 1, both[0].numel()).view_as(both[0])
    for a, b in zip(*(torch.autograd.grad(y, leaves, weight) for y in both), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_what_differs_or_fails_is_told(script, peers):
    scan = script.Scan('small', 1, 4, 6, 2)

    def off(**inputs):
        return script.ours(scan, 'torch')(**inputs) * 1.1

    def broken(**inputs):
        raise TypeError('no such argument')

    right = peers.Way(script.ours(scan, 'torch'))
    ways = {'torch': right, 'ours': peers.Way(off), 'mamba_ssm': peers.Way(broken), 'copies': right}
    wrong = script.check(scan, ways, torch.float32, 'cpu')
    assert list(wrong) == ['ours', 'mamba_ssm'] and 'small' in wrong['ours'] and 'the output' in wrong['ours']
    assert wrong['mamba_ssm'].endswith('mamba_ssm fails: TypeError: no such argument')
    with pytest.raises(TypeError):
        script.check(scan, {'torch': peers.Way(broken)}, torch.float32, 'cpu')


@pytest.mark.parametrize('grid', [None, (2, 3)], ids=['flips', 'cross'])
def test_what_is_timed(script, peers, grid):
    """The prepared tensors are leaves: what prepares them is no part of a call, forward or backward."""
    scan = script.Scan('', 1, 4, 6, 2, script.CROSS if grid else script.VIM, not grid, grid)
    way = peers.with_copies(scan.paths, scan.grid, peers.own_kernel('torch'))
    inputs = script.make_inputs(scan, torch.float32, 'cpu')
    prepared = []
    counted = peers.Way(way.run, lambda **x: prepared.append(1) or way.prepare(**x))
    for backward in (False, True):
        call = script.calls(counted, inputs, backward)
        first, second = call(), call()
        assert len(first) == (len([x for x in way.prepare(**inputs).values() if x is not None]) if backward else 1)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(prepared) == 2 and not any(x is not None and x.requires_grad for x in inputs.values())


def test_table(script):
    common = {'shape': 's', 'dtype': 'float16', 'pass': 'forward', 'bandwidth_ms': 0.5, 'exponentials_ms': 0.25}
    rows = [
        {**common, 'implementation': 'ours', 'ms': 3.0, 'graph_ms': 1.0},
        {**common, 'implementation': 'mamba_ssm', 'ms': None, 'graph_ms': None, 'missing': 'not installed'},
        {**common, 'implementation': 'copies', 'ms': 5.0, 'graph_ms': 4.0},
        {**common, 'implementation': 'torch', 'ms': 30.0, 'graph_ms': None},
    ]
    lines = [dict(zip(script.HEADER, line, strict=True)) for line in script.table(rows)]
    assert [line['ms'] for line in lines] == ['3.0000', 'not installed', '5.0000', '30.0000']
    assert [line['ours is'] for line in lines] == ['-', '-', '4.00x as fast', '10.00x as fast']
    assert [line['% of bandwidth limit'] for line in lines] == ['50', '-', '12', '2']
    assert [line['% of exponentials limit'] for line in lines] == ['25', '-', '6', '1']


def test_shapes_cover_the_models(script):
    names = [scan.name for scan in script.shapes()]
    assert len(set(names)) == len(names)
    for model in ('Vim-T', 'Vim-S', 'Vim-B', 'VMamba-T', 'MambaVision-T'):
        assert any(model in name and '224' in name for name in names)
    assert {scan.length for scan in script.shapes()} >= {49, 196, 1024, 3136, 4096, 6084, 97344}
