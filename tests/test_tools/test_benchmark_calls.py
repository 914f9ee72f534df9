"""The benchmark of calls: its layers compute the same, and its table has a row for each shape."""

import pytest
import torch
from checkout import ROOT, load_module

benchmark = load_module(ROOT / 'tools/analysis_tools/benchmark_calls.py')


def test_layers_agree_and_rows_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, 'set_num_threads', lambda number: None)
    given = benchmark.inputs((2, 5, 3, 7))
    calls = benchmark.layers(given)
    wanted = calls['function']()
    torch.testing.assert_close(calls['C++']()[0], wanted)
    assert wanted.shape == (2, 5, 7)
    monkeypatch.setattr(benchmark, 'SHAPES', {'one': (1, 4, 2, 1), 'few': (1, 4, 2, 9)})
    benchmark.main(['--rounds', '2', '--calls', '1', '--markdown', str(tmp_path / 'calls.md')])
    lines = (tmp_path / 'calls.md').read_text().splitlines()
    assert [line.split('|')[1].strip() for line in lines] == ['shape', '-', 'one', 'few']
    assert capsys.readouterr().out.splitlines() == lines
    with pytest.raises(SystemExit):
        benchmark.parse_args(['--calls', '0'])
    assert '--rounds, --calls and --threads must be at least 1' in capsys.readouterr().err
