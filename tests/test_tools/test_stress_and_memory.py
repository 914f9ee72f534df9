"""The tools that look for what is not finite in a long training, and for the peak of memory."""

import json
import sys

import pytest
import torch
from checkout import ROOT


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import measure_memory
    import stress_training

    return stress_training, measure_memory


SMALL = ('--iters', '7', '--every', '3', '--batch', '2', '--odd', '2', '--side', '32')


@pytest.mark.parametrize(('family', 'precision'), [('vim', 'float16'), ('vrwkv', 'bfloat16')])
def test_stress_reports_states_and_scale(family, precision, tools, tmp_path, capsys):
    out = tmp_path / 'found.json'
    arch = ('--arch', 'embed_dims=16', 'depth=2')
    tools[0].main(['--models', family, *arch, '--precision', precision, *SMALL, '--json', str(out)])
    (found,) = json.loads(out.read_text())
    assert len(found['states']) == 2 and all(0 < value < 1e3 for value in found['states'].values())
    assert found['wrong'] == {} and found['scale']['first'] == (65536 if precision == 'float16' else 1)
    assert found['scale']['last'] * 2 ** found['skipped'] == found['scale']['first']
    printed = capsys.readouterr().out
    assert 'not finite: nothing' in printed and 'largest states: backbone.layers.' in printed
    assert ('loss scale' in printed) == (precision == 'float16')


def test_stress_names_what_is_not_finite(tools, monkeypatch, capsys):
    stress, _ = tools
    build = stress.Classifier

    def spoilt(*arguments):
        model = build(*arguments)
        with torch.no_grad():
            model.backbone.layers[1].mixer.D[0] = float('inf')
        return model

    monkeypatch.setattr(stress, 'Classifier', spoilt)
    with pytest.raises(SystemExit) as stop:
        stress.main(['--models', 'vim', '--arch', 'embed_dims=16', 'depth=2', '--precision', 'float32', *SMALL])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert 'output of backbone.layers.1.mixer.out_proj (Linear) (iteration 0)' in printed
    assert 'backbone.layers.1.mixer.D (iteration 0)' in printed


def test_an_unknown_model_is_named(tools):
    with pytest.raises(SystemExit, match=r"--models 'vit:tiny' is none of: .*vim:tiny"):
        tools[0].main(['--models', 'vit:tiny'])


def test_memory_goes_on_where_it_was_stopped(tools, monkeypatch, tmp_path, capsys):
    _, memory = tools
    measured = []
    monkeypatch.setattr(memory, 'run', lambda row: measured.append(row) or {**row, 'mb': 10.0 * len(measured)})
    arguments = ['--models', 'vim:tiny', '--sides', '64', '--json', str(tmp_path / 'rows.json')]
    memory.main([*arguments, '--kinds', 'training'])
    memory.main([*arguments, '--markdown', str(tmp_path / 'table.md')])
    assert [row['kind'] for row in measured] == ['training', 'inference']
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert lines[2:] == ['| MB | inference, 64 | training, 64 |', '|-|-|-|', '| Vim-T | 20 | 10 |']
    assert lines[2] in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='a peak is read from /proc')
def test_memory_of_training_is_more_than_weights_and_gradients(tools):
    _, memory = tools
    values = ('vim:tiny', 64, 'training', 2, 'cpu', 'float32')
    row = memory.run(dict(zip(memory.FIELDS, values, strict=True)))
    assert 2 * 28 < row['mb'] < 200  # 7 M parameters
