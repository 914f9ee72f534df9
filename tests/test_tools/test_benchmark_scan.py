"""The CPU benchmark: workers that take turns and may end, its implementations, its table with and without a limit."""

import importlib
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'
SCRIPT = """
import json, os, sys
from taking_turns import serve
job = json.loads(sys.argv[2])
def answer(question):
    if question == 'end':
        sys.exit(3)
    return [question, job['name'], os.environ['OMP_NUM_THREADS'], os.environ['MORE']]
serve(answer)
"""


@pytest.fixture
def tool(monkeypatch):
    """A module of the tools by its name."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


def test_workers_answer_until_they_end(tool, tmp_path):
    turns = tool('taking_turns')
    script = tmp_path / 'script.py'
    script.write_text(f'import sys\nsys.path.insert(0, {str(TOOLS)!r})\n{SCRIPT}')
    workers = [turns.Worker(str(script), {'name': name, 'threads': 3}, {'MORE': 'yes'}) for name in 'ab']
    try:
        for question in ('first', 'second'):
            assert [worker.ask(question) for worker in workers] == [[question, name, '3', 'yes'] for name in 'ab']
        for _ in range(2):  # one that has ended says so again
            with pytest.raises(turns.WorkerEnded, match='status 3'):
                workers[0].ask('end')
        assert workers[1].ask('third')[0] == 'third'
    finally:
        for worker in workers:
            worker.close()
    assert all(worker.process.poll() is not None for worker in workers)


def test_implementations_agree(tool):
    benchmark = tool('benchmark_scan')
    for shape in benchmark.SHAPES:
        benchmark.check(shape, ['ours:torch', 'loop', 'limit'], 'cpu')


def test_what_differs_is_an_error(tool, monkeypatch):
    benchmark = tool('benchmark_scan')
    right = benchmark.implementation

    def wrong(name, *args):
        return lambda **inputs: right(name, *args)(**inputs) * (1.1 if name == 'loop' else 1)

    monkeypatch.setattr(benchmark, 'implementation', wrong)
    with pytest.raises(AssertionError, match='not close'):
        benchmark.check(benchmark.SHAPES[0], ['loop'], 'cpu')


def test_table(tool):
    benchmark, tables = tool('benchmark_scan'), tool('benchmark_scan_tables')
    shape, names = benchmark.Shape('s', 2, 8, 16, 4), ['ours:torch', 'pscan', 'limit']
    found = {('s', 'ours:torch', False): {'ms': 4.0, 'mb': 3.0}, ('s', 'pscan', False): {'ms': 10.0, 'mb': 12.0}}
    *_, without = tables.by_shape([shape], names, found, False)
    assert without.split(' | ')[:3] == ['| s', '-', '4.0 (2.5x pscan)']
    found['s', 'limit', False] = {'ms': 2.0, 'with_softplus_ms': 3.2, 'mb': 0.0}
    head, _, line = tables.by_shape([shape], names, found, False)
    cells = dict(zip(*(text.strip('| ').split(' | ') for text in (head, line)), strict=True))
    assert cells == {
        'shape': 's',
        'limit (with softplus), ms': '2.00 (3.20)',
        'pscan, ms': '10.0',
        'pscan, MB': '12',
        'ours:torch, ms': '4.0 (2.5x pscan, 2.0x (1.2x) limit)',
        'ours:torch, MB': '3 (25.0 %)',
        'results, MB': '0',
    }


def test_results_are_counted(tool):
    """What nobody can do without: the output and the gradients themselves."""
    scans, tables = tool('scan_implementations'), tool('benchmark_scan_tables')
    for shape in (
        scans.Shape('own u', 2, 8, 6, 4, scans.VIM),
        scans.Shape('one u', 1, 4, 6, 2, scans.CROSS, True, (2, 3)),
        scans.Shape('one of each', 1, 4, 6, 2, scans.ATROUS, True, (2, 3), True),
        scans.Shape('a chain', 2, 4, 6, 2, scans.HALF, True, (2, 3), True, True),
    ):
        inputs = {name: x.requires_grad_() for name, x in scans.make_inputs(shape, 'cpu').items()}
        y = scans.implementation('ours:torch', shape, 'cpu')(**inputs)
        grads = torch.autograd.grad(y.sum(), list(inputs.values()))
        assert tables.irreducible(shape, False) == y.nbytes
        assert tables.irreducible(shape, True) == y.nbytes + sum(x.nbytes for x in grads)
