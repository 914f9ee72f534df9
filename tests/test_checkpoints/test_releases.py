"""Checkpoints of every release load in this version and compute what they computed then."""

import json
import logging
from pathlib import Path

import pytest
import torch
from checkout import ROOT, load_module
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmvim import checkpoints

FOLDERS = sorted(path.parent for path in (ROOT / 'tests/releases').glob('*/record.json'))
RECORDS = {path.name: json.loads((path / 'record.json').read_text()) for path in FOLDERS}
BACKBONES = [(version, name) for version, record in RECORDS.items() for name in record['backbones']]
release = load_module(ROOT / 'tests/releases/record.py')


def assert_as_recorded(outputs, recorded):
    assert [list(x.shape) for x in outputs] == [entry['shape'] for entry in recorded]
    for x, entry in zip(outputs, recorded, strict=True):
        scale = entry['norm'] / x.numel() ** 0.5
        torch.testing.assert_close(x.flatten()[:16], torch.tensor(entry['first']), rtol=1e-4, atol=1e-4 * scale)
        assert x.double().norm().item() == pytest.approx(entry['norm'], rel=1e-4)


def build(version, name, **more):
    return MODELS.build({**RECORDS[version]['backbones'][name]['config'], **more}).eval()


def test_the_first_release_is_there():
    assert {'vim', 'mambavision'} <= set(RECORDS['0.1.0']['backbones'])
    size = sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir())
    assert size < 500_000 * len(FOLDERS), 'keep them tiny'


@pytest.mark.parametrize(('version', 'name'), BACKBONES)
@pytest.mark.parametrize('way', ['init_cfg', 'load_checkpoint', 'read'])
def test_backbones(version, name, way):
    file = str(ROOT / 'tests/releases' / version / f'{name}.pth')
    if way == 'init_cfg':
        backbone = build(version, name, init_cfg={'type': 'Pretrained', 'checkpoint': file})
        backbone.init_weights()
    elif way == 'load_checkpoint':
        backbone = build(version, name)
        load_checkpoint(backbone, file, strict=False, logger='silent')
    else:
        config = RECORDS[version]['backbones'][name]['config']
        # of Vim's positions 0.1.0 did not yet say of which grid they are
        grid = {'grid': (release.SIDE // config['patch_size'],) * 2} if (version, name) == ('0.1.0', 'vim') else {}
        found = checkpoints.read(file, arch=config['arch'], **grid)
        backbone = build(version, name)
        assert found.backbone['type'] == config['type'] and not found.report.unexpected
        weights = {key.removeprefix('backbone.'): value for key, value in found.state_dict.items()}
        backbone.load_state_dict(weights, strict=False)
    with torch.no_grad():
        assert_as_recorded(backbone(release.picture()), RECORDS[version]['backbones'][name]['outputs'])


def test_other_weights_are_seen():
    """The control: without the file's weights the outputs are not those that were recorded."""
    version, name = BACKBONES[0]
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_as_recorded(build(version, name)(release.picture()), RECORDS[version]['backbones'][name]['outputs'])


def logits(model):
    with torch.no_grad():
        return (model.eval().encode_decode(release.picture(), [{'img_shape': (release.SIDE, release.SIDE)}]),)


@pytest.fixture
def runner(tmp_path):
    pytest.importorskip('mmseg')
    logging.disable(logging.WARNING)
    yield release.runner(str(tmp_path))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize('version', RECORDS)
def test_a_run_goes_on(version, runner, quick_runners):
    """A segmentor's checkpoint with optimizer, schedule and message hub: loaded, then resumed and trained further."""
    file = str(ROOT / 'tests/releases' / version / 'run.pth')
    container = checkpoints.load_file(file)
    assert container['meta']['iter'] == 1 and 'optimizer' in container
    weights, _ = checkpoints.model_weights(container, file)
    runner.model.load_state_dict(weights, strict=False)
    assert_as_recorded(logits(runner.model), RECORDS[version]['run'])
    runner._load_from, runner._resume, runner._train_loop = (
        file,
        True,
        ConfigDict(type='IterBasedTrainLoop', max_iters=2),
    )
    runner.train()
    assert runner.iter == 2
    steps = {int(state['step']) for state in runner.optim_wrapper.optimizer.state.values()}
    assert steps == {2}, 'the optimizer went on'


def test_what_is_recorded_now_loads_now(tmp_path, quick_runners):
    """The script that a release calls, on this version."""
    pytest.importorskip('mmseg')
    release.record(tmp_path)
    found = json.loads((tmp_path / 'record.json').read_text())
    assert set(found['backbones']) == set(release.BACKBONES)
    for name, entry in found['backbones'].items():
        backbone = MODELS.build(dict(entry['config'])).eval()
        load_checkpoint(backbone, str(tmp_path / f'{name}.pth'), logger='silent')
        with torch.no_grad():
            assert_as_recorded(backbone(release.picture()), entry['outputs'])
    assert Path(tmp_path, 'run.pth').stat().st_size > 1000
