"""The tool that compiles and exports at full size: its steps on a tiny model, its table and its log."""

import argparse
import importlib
import json
from pathlib import Path

import pytest
from families import FAMILY_CASES

from mmvim.deploy.parts import Features

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module('compile_and_export')


LOG = {
    'vim:tiny': {
        'compile': {'seconds': 12.3, 'graphs': 1, 'error': 2e-6},
        'onnx': {'seconds': 30.0, 'megabytes': 27.4, 'error': 3e-6},
        'program': {'failed': 'took more than 9 s'},
    }
}


def test_the_table(tool):
    row = tool.table(LOG)[-1]
    assert row == '| vim:tiny | 12 s, 1 graph, 2e-06 | - | failed | 30 s, 27 MB, 3e-06 |'


def test_what_the_log_has_is_not_measured_again(tool, tmp_path, monkeypatch, capsys):
    file = tmp_path / 'log.json'
    file.write_text(json.dumps(LOG))
    asked = []
    monkeypatch.setattr(tool, 'measure', lambda model, step, args: asked.append(step) or {'seconds': 1, 'graphs': 2})
    monkeypatch.setattr('sys.argv', ['x', '--log', str(file), '--only', 'vim:tiny', '--steps', 'compile', 'train'])
    tool.main()
    assert asked == ['train'] and json.loads(file.read_text())['vim:tiny']['train'] == {'seconds': 1, 'graphs': 2}
    assert '1 s, 2 graphs' in capsys.readouterr().out


def test_a_step_that_fails_is_told(tool, tmp_path):
    args = argparse.Namespace(log=tmp_path / 'log.json', images=[], limit=60)
    assert 'failed' in tool.measure('vim:huge', 'program', args)


@pytest.mark.full
@pytest.mark.parametrize('step', ['compile', 'train', 'program', 'onnx'])
def test_steps(tool, step, monkeypatch):
    monkeypatch.setattr(tool, 'build', lambda model: (Features(FAMILY_CASES['vim'].build_tiny()), None))
    monkeypatch.setattr(tool, 'COMPARED', ((64, 64), (64, 96), (96, 64)))
    found = tool.work('vim:tiny', step, [])
    assert found['seconds'] > 0 and found['error'] < 1e-3
    assert found['graphs'] == 1 if step in ('compile', 'train') else found['megabytes'] > 0
