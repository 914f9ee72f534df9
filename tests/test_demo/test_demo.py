"""The demo from end to end, at the smallest size, and its configs."""

import json

import pytest
import torch
from checkout import ROOT, load_module
from mmengine.config import Config
from PIL import Image

import mmvim  # noqa: F401  makes `mmseg::` known to configs
from mmvim.cli import UserError, has_accelerator
from scenes import CLASSES, PALETTE, DemoSceneParams

pytest.importorskip('mmseg')
CONFIGS = sorted((ROOT / 'configs' / 'demo').glob('*.py'))


@pytest.fixture(scope='module')
def demo():
    return load_module(ROOT / 'demo' / 'demo.py')


@pytest.mark.slow
@pytest.mark.parametrize(
    'path',
    [pytest.param(p, marks=pytest.mark.full) if 'bands' in p.stem else p for p in CONFIGS],
    ids=lambda path: path.stem,
)
def test_demo_trains_evaluates_and_draws(demo, path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    demo.main(['--quick', '--config', str(path)])
    out = tmp_path / 'work_dirs' / 'demo_quick'
    numbers = json.loads((out / 'metrics.json').read_text())
    assert numbers['iterations'] == 4 and numbers['val_scenes'] == 4
    assert 0 <= numbers['mIoU'] <= 100
    assert 0 < numbers['floor_mIoU'] < 10 and numbers['floor_class'] in CLASSES
    state = torch.load(numbers['checkpoint'], map_location='cpu', weights_only=False)
    assert any(name.startswith('backbone.') for name in state['state_dict'])
    for name in ('contact_sheet.png', 'learning_curve.png'):
        assert min(Image.open(out / name).size) > 200
    printed = capfd.readouterr().out
    assert f'{numbers["mIoU"]:.1f} %' in printed and f'{numbers["floor_mIoU"]:.1f} %' in printed
    assert has_accelerator() or printed.count('CPU: ') == 1, 'threads and workers are told once'
    assert 'Training: 4/4' in printed and 'Rendering: 8/8' in printed
    assert 'mmengine' not in printed, 'the log of the libraries is on the console'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_agrees_with_the_scenes(path):
    cfg = Config.fromfile(path)
    assert cfg.model.decode_head.num_classes == len(CLASSES)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.type == 'ADE20KDataset'
        assert tuple(loader.dataset.metainfo.classes) == CLASSES
        assert [tuple(colour) for colour in loader.dataset.metainfo.palette] == list(PALETTE)
        folder = 'demo' if cfg.model.backbone.get('in_channels', 3) == 3 else 'demo_bands'
        assert loader.dataset.data_root == f'data/{folder}/ADEChallengeData2016'
    assert tuple(cfg.model.data_preprocessor.size) == DemoSceneParams().size
    assert max(scheduler.end for scheduler in cfg.param_scheduler) == cfg.train_cfg.max_iters
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.max_iters
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0


def test_schedule_is_scaled(demo):
    cfg = Config.fromfile(CONFIGS[0])
    iters, interval = cfg.train_cfg.max_iters, cfg.train_cfg.val_interval
    demo.scale_schedule(cfg, iters * 2)
    assert cfg.train_cfg.val_interval == 2 * interval and cfg.param_scheduler[-1].end == 2 * iters
    demo.scale_schedule(cfg, 1)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == cfg.default_hooks.logger.interval == 1
    assert all(scheduler.begin < scheduler.end <= 1 for scheduler in cfg.param_scheduler)


def test_other_files_in_the_data_folder_are_an_error(demo, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'mine.txt').write_text('x')
    with pytest.raises(UserError, match=r'holds other files.*--data'):
        demo.main(['--data', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('arguments', [['--iters', '0'], ['--iters', 'many'], ['--unknown']])
def test_wrong_command_lines_are_one_line(demo, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2 and capsys.readouterr().err.count('\n') == 1


def test_missing_config_is_an_error(demo, tmp_path):
    with pytest.raises(UserError, match=r'none\.py does not exist'):
        demo.main(['--config', str(tmp_path / 'none.py'), '--data', str(tmp_path / 'data')])
    assert not list(tmp_path.iterdir())
