"""The tools in bfloat16, and a checkpoint of 8-bit weights from `mmvim export --int8` to `mmvim test`."""

import json

import pytest
import torch
from checkout import ROOT

from mmvim.cli import load_config
from mmvim.cli.commands import export, test
from mmvim.cli.model import build_model


@pytest.fixture
def weights(seg, tmp_path):
    """A checkpoint of the segmentor, as MMEngine writes it."""
    torch.manual_seed(0)
    model = build_model(load_config(str(seg)))
    meta = {'dataset_meta': {'classes': ('sky', 'road'), 'palette': [[1, 2, 3]] * 2}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth'


def test_small_weights_are_tested_in_bfloat16(seg, weights, tmp_path, capsys, monkeypatch):
    small = tmp_path / 'small.pth'
    export.main([str(seg), '--checkpoint', str(weights), '--int8', '--out', str(small)])
    assert f'{small}: {small.stat().st_size / 1e6:.1f} MB; the weights in float32 are' in capsys.readouterr().out
    assert small.stat().st_size < 0.7 * weights.stat().st_size
    seen = []
    own = torch.nn.Linear.forward

    def forward(layer, x):
        y = own(layer, x)
        seen.append((y.dtype, layer.weight.dtype))
        return y

    monkeypatch.setattr(torch.nn.Linear, 'forward', forward)
    test.main([str(seg), str(small), '--work-dir', str(tmp_path / 'work'), '--dtype', 'bf16'])
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    [scores] = (tmp_path / 'work').glob('*/*.json')
    assert 0 <= json.loads(scores.read_text())['mIoU'] <= 100


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], '--int8 writes the weights of a checkpoint; give it with --checkpoint FILE'),
        (['--checkpoint', 'WEIGHTS', '--result', 'scores'], '--result is an option of an exported model; leave it out'),
        (['--checkpoint', 'WEIGHTS', '--fixed-size', '64', '64'], '--fixed-size is an option of an exported model'),
        (['--checkpoint', 'WEIGHTS', '--tolerance', '1'], '--tolerance is an option of an exported model'),
        (['--checkpoint', 'gone.pth'], '--checkpoint gone.pth does not exist'),
    ],
)
def test_wrong_use(seg, weights, tmp_path, fails, arguments, words):
    given = [str(weights) if word == 'WEIGHTS' else word for word in arguments]
    assert words in fails(export.main, str(seg), '--int8', '--out', tmp_path / 'small.pth', *given, status=2)
    assert not (tmp_path / 'small.pth').exists()


def test_a_name_for_an_onnx_file_is_refused(seg, weights, tmp_path, fails):
    given = [str(seg), '--int8', '--checkpoint', str(weights), '--out', tmp_path / 'small.onnx']
    assert 'with --int8 a checkpoint is written' in fails(export.main, *given, status=2)


def test_what_is_lost(seg, weights, tmp_path, monkeypatch, capsys):
    """The table has a row for each way; the copy for inference loses nothing, and a model without sense a control."""
    from checkout import load_module

    measure = load_module(ROOT / 'tools/analysis_tools/precision_loss.py')
    every = measure.ways()

    def senseless(model):
        made = every['float32'](build_model(load_config(str(seg)))).eval()
        return made.requires_grad_(False)

    monkeypatch.setattr(measure, 'ways', lambda: {**every, 'senseless': senseless})
    torch.manual_seed(1)
    measure.main([str(seg), str(weights), '--json', str(tmp_path / 'a.json'), '--markdown', str(tmp_path / 'a.md')])
    found = json.loads((tmp_path / 'a.json').read_text())
    assert list(found) == [*every, 'senseless']
    assert found['float32']['other'] == 0 and found['float32, for inference']['other'] < 0.01
    assert found['senseless']['other'] > 0.5
    assert (tmp_path / 'a.md').read_text().count('\n') == len(found) + 2
    with pytest.raises(SystemExit):
        measure.parse_args([str(seg), str(weights), '--pictures', '0'])
    assert '--pictures 0 must be at least 1' in capsys.readouterr().err
