"""The benchmark of the bidirectional WKV: its implementations agree, its workers answer, its tables have the ratios."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module('benchmark_wkv')


@pytest.mark.parametrize('boundary', ['exact', 'published'])
def test_implementations_agree(benchmark, boundary):
    benchmark.check(['ours:torch', 'limit'], boundary)


def test_what_differs_is_an_error(benchmark, monkeypatch):
    right = benchmark.implementation

    def wrong(name, boundary):
        return lambda *inputs: right(name, boundary)(*inputs) * (1.01 if name == 'ours:torch' else 1)

    monkeypatch.setattr(benchmark, 'implementation', wrong)
    with pytest.raises(AssertionError, match='not close'):
        benchmark.check(['ours:torch'], 'exact')


def test_the_limit_takes_an_exponential_a_key(benchmark, monkeypatch):
    counted, real = [], torch.exp
    monkeypatch.setattr(torch, 'exp', lambda x, out: counted.append(x.numel()) or real(x, out=out))
    shape = benchmark.Shape(1, 100, 70)
    benchmark.implementation('exp', 'exact')(*benchmark.make_inputs(shape))
    assert sum(counted) == 100 * 70


def test_calls_take_and_return_what_the_op_does(benchmark):
    inputs = [x.requires_grad_() for x in benchmark.make_inputs(benchmark.Shape(2, 7, 5))]
    y = benchmark.implementation('calls', 'exact')(*inputs)
    assert y.shape == (2, 7, 5) and y.requires_grad
    assert [g.shape for g in torch.autograd.grad(y.sum(), inputs)] == [x.shape for x in inputs]


def test_tables(benchmark):
    shape, names = benchmark.Shape(1, 196, 192), ['ours:native', 'quadratic', 'calls', 'limit']
    times = {
        ('ours:native', False): 0.5,
        ('ours:native', True): 1.6,
        ('quadratic', False): 40.0,
        ('calls', False): 0.02,
        ('calls', True): 0.2,
        ('limit', False): 0.25,
    }
    lines = benchmark.tables({shape: times}, names)
    assert '| B 1, T 196, C 192 | 0.250 | 0.500 (2.0x limit) | 40.000 (160.0x limit) | 0.020 |' in lines
    assert '| B 1, T 196, C 192 | 1.600 (3.2x forward) | - | 0.200 |' in lines


def test_long_rows_of_the_quadratic_formula_are_left_out(benchmark):
    for length, forward, backward in ((196, True, True), (1024, True, False), (4096, False, False)):
        shape = benchmark.Shape(1, length, 8)
        assert [benchmark.is_measured('quadratic', flag, shape) for flag in (False, True)] == [forward, backward]
    assert not benchmark.is_measured('exp', True, benchmark.Shape(1, 4, 4))


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    options = ['--quick', '--implementations', 'ours:torch,calls,limit', '--seconds', '0.01']
    outputs = ['--markdown', str(tmp_path / 'table.md'), '--json', str(tmp_path / 'table.json')]
    subprocess.run([sys.executable, TOOLS / 'benchmark_wkv.py', *options, *outputs], check=True, capture_output=True)
    rows = json.loads((tmp_path / 'table.json').read_text())
    assert {(row['implementation'], row['backward']) for row in rows} == {
        ('ours:torch', False),
        ('ours:torch', True),
        ('calls', False),
        ('calls', True),
        ('limit', False),
    }
    assert all(row['ms'] > 0 for row in rows)
    assert (tmp_path / 'table.md').read_text().count('x limit)') == 2


@pytest.mark.parametrize(
    ('options', 'words'), [(['--shapes', 'T 7,'], 'fits none of'), (['--implementations', 'magic'], 'not available')]
)
def test_bad_options_are_named(options, words):
    result = subprocess.run(
        [sys.executable, TOOLS / 'benchmark_wkv.py', *options], text=True, capture_output=True, check=False
    )
    assert result.returncode == 1 and words in result.stderr
