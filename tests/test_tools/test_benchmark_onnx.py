"""The benchmark of exported models: its runtimes agree, its table has a row for each."""

import argparse
import importlib
from pathlib import Path

import pytest
from families import FAMILY_CASES

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')
pytest.importorskip('openvino', reason='the extra "export" is not installed')

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module('benchmark_onnx')


@pytest.mark.full
def test_rows(benchmark, monkeypatch, tmp_path):
    class Here:
        """A worker in this process."""

        def __init__(self, script, job):
            self.ask = benchmark.answering(job)

        def close(self):
            pass

    monkeypatch.setattr(benchmark, 'Worker', Here)
    monkeypatch.setattr(benchmark, 'build', lambda model, side: FAMILY_CASES['vim'].build_tiny().eval())
    args = argparse.Namespace(opset=18, chunk=4, threads=1, rounds=2, calls=2)
    rows = benchmark.measure('vim:tiny', 64, tmp_path, args)
    assert [row[:3] for row in rows] == [['vim:tiny', '64', runtime] for runtime in benchmark.RUNTIMES]
    assert all(float(row[3]) > 0 and float(row[5]) < 1e-4 for row in rows)
    assert rows[0][4:] == ['1.00', '0e+00', '-'] and all(float(row[6]) > 0 for row in rows[1:])


def test_wrong_use(benchmark, monkeypatch, capsys):
    for arguments, words in ((['--sides', '8'], '--sides must be at least 32'), (['--rounds', '0'], 'at least 1')):
        monkeypatch.setattr('sys.argv', ['benchmark_onnx.py', *arguments])
        with pytest.raises(SystemExit):
            benchmark.parse_args()
        assert words in capsys.readouterr().err
