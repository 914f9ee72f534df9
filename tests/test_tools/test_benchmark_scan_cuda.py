"""The GPU benchmark's implementations agree, shown on the CPU; its limits count what they say."""

from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmark_scan_cuda
    return benchmark_scan_cuda


@pytest.mark.parametrize('kind', ['vim', 'cross', 'one'])
def test_copies_compute_the_same(benchmark, kind):
    from mmvim.ops import selective_scan
    scan = {'vim': benchmark.Scan('', 2, 6, 12, 3, benchmark.VIM, True),
            'cross': benchmark.Scan('', 2, 4, 12, 2, benchmark.CROSS, grid=(3, 4)),
            'one': benchmark.Scan('', 1, 4, 7, 2)}[kind]

    def single(u, delta, A, B, C, D, z, bias):
        return selective_scan(u, delta, A, B, C, D, z, bias, True, backend='torch')
    inputs = benchmark.make_inputs(scan, torch.float32, 'cpu')
    torch.testing.assert_close(benchmark.with_copies(scan, single)(**inputs), benchmark.ours(scan, 'torch')(**inputs),
                               rtol=1e-4, atol=1e-5)


def test_limits(benchmark):
    scan = benchmark.Scan('', 2, 4, 8, 3, benchmark.VIM)
    inputs = benchmark.make_inputs(scan, torch.float16, 'cpu')
    read = 2 * (2 * 2 * 2 * 8 * 4 + 2 * 2 * 2 * 8 * 3) + 4 * (2 * 4 * 3 + 2 * 4 + 2 * 4)
    elements = 2 * 2 * 4 * 8
    assert benchmark.limits(scan, inputs, False, 1e3, 1e3) == (read + 2 * 2 * 4 * 8, elements * 5)
    assert benchmark.limits(scan, inputs, True, 1e3, 1e3) == (3 * read + 2 * 2 * 2 * 4 * 8, elements * 12)


def test_shapes_cover_the_models(benchmark):
    names = [scan.name for scan in benchmark.shapes()]
    assert len(set(names)) == len(names)
    for model in ('Vim-T', 'Vim-S', 'Vim-B', 'VMamba-T', 'MambaVision-T'):
        assert any(model in name and '224' in name for name in names)
    assert {scan.length for scan in benchmark.shapes()} >= {49, 196, 1024, 3136, 4096, 6084, 97344}
