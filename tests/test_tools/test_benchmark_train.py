"""The split of a training step: every part is timed, they add up, and the model has learnt meanwhile."""

import json

import pytest
import torch


@pytest.fixture
def tool(monkeypatch):
    from checkout import ROOT, load_tool

    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
    return load_tool('analysis_tools/benchmark_train.py')


def test_parts_of_a_step(tool, seg, tmp_path, capsys):
    found = tmp_path / 'steps.json'
    tool.main([str(seg), '--iters', '2', '--warmup', '1', '--threads', '1', '--json', str(found)])
    out = capsys.readouterr().out
    rows = {line.split('|')[1].strip(): line.split('|')[2:5] for line in out.splitlines() if line.startswith('| ')}
    assert set(rows) == {'part', 'step', *tool.PARTS} and '2 steps' in out
    record = json.loads(found.read_text())
    assert len(record['steps']) == 2 and record['batch'] == 2
    for times in record['steps']:
        assert set(times) == set(tool.PARTS) and all(seconds > 0 for seconds in times.values())
        assert times['forward'] > times['transfer'] and times['backward'] > times['transfer']
    shares = [float(rows[part][2].split()[0]) for part in tool.PARTS]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_a_step_is_a_training_step(tool, seg, tmp_path):
    """The same losses and weights as MMEngine's own ``train_step``."""
    args = tool.parse_args([str(seg), '--cfg-options', 'randomness.seed=3'])
    losses = []
    for own in (True, False):
        model, optimizer, loader = tool.build(args, str(tmp_path / f'work_{own}'))
        batches, watch = iter(loader), tool.Watch(torch.device('cpu'))
        torch.manual_seed(0)
        batch = next(batches)
        torch.manual_seed(0)
        if own:
            tool.step(model, optimizer, iter([batch]), watch)
        else:
            model.train_step(batch, optimizer)
        losses.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*losses)


def test_bad_arguments(tool, seg, fails):
    assert '--iters 0' in fails(tool.main, seg, '--iters', '0', status=2)
    assert '--threads 0' in fails(tool.main, seg, '--threads', '0', status=2)
    assert 'bakbone' in fails(tool.main, seg, '--cfg-options', 'model.bakbone.arch=tiny', status=2)
