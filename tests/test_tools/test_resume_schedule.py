"""Resuming with a config whose schedule or optimizer is not the checkpoint's: told, refused or followed."""

import re

import pytest
import torch

POLY = "param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end={end}, by_epoch=False)]\n"
WARM = (
    "param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),\n"
    "    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=2, end={end}, by_epoch=False)]\n"
)

pytestmark = pytest.mark.slow  # whole trainings


def config(folder, name, base, text):
    path = folder / f'{name}_{folder.name}.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}')
    return str(path)


def load(path):
    return torch.load(path, weights_only=False)


def lrs(path):
    return [group['lr'] for group in load(path)['optimizer']['param_groups']]


@pytest.fixture
def short(train, tmp_path, seg):
    """A run of 4 iterations whose schedule ends with it; the work dir."""
    train.main([config(tmp_path, 'short', seg, POLY.format(end=4)), '--work-dir', str(tmp_path / 'work')])
    assert lrs(tmp_path / 'work' / 'iter_4.pth') == [0.0]
    return tmp_path / 'work'


def longer(folder, seg, text=POLY, name='long'):
    return config(folder, name, seg, text.format(end=8) + 'train_cfg = dict(max_iters=8)\n')


def resume(train, cfg, work, *more):
    train.main([cfg, '--work-dir', str(work), '--resume', str(work / 'iter_4.pth'), *more])


def test_a_longer_schedule_is_refused_before_anything_is_written(train, tmp_path, seg, short, fails):
    cfg, before = longer(tmp_path, seg), sorted(short.rglob('*'))
    command = (cfg, '--work-dir', short, '--resume', short / 'iter_4.pth')
    line = fails(train.main, *command, status=2)
    assert 'brings the learning rate to 0 at iteration 4, and this run goes on to 8 iterations' in line
    assert 'param_scheduler[0].end 4 in the checkpoint, 8 in the config' in line
    assert 'train_cfg.max_iters 4 in the checkpoint, 8 in the config' in line
    assert '--resume-with config' in line and '--resume-with checkpoint' in line
    assert sorted(short.rglob('*')) == before


@pytest.mark.parametrize('text', [POLY, WARM], ids=['poly', 'warm-up'])
def test_the_configs_schedule(train, tmp_path, seg, text):
    """The resumed run ends as one that had the schedule from its beginning; its learning rates are the same."""
    work, whole = tmp_path / 'work', tmp_path / 'whole'
    train.main([config(tmp_path, 'short', seg, text.format(end=4)), '--work-dir', str(work)])
    cfg = longer(tmp_path, seg, text)
    resume(train, cfg, work, '--resume-with', 'config', '--cfg-options', 'default_hooks.checkpoint.interval=1')
    straight = longer(tmp_path, seg, text, 'straight')
    train.main([straight, '--work-dir', str(whole), '--cfg-options', 'default_hooks.checkpoint.interval=1'])
    for i in range(5, 9):
        assert lrs(work / f'iter_{i}.pth') == pytest.approx(lrs(whole / f'iter_{i}.pth'), rel=1e-6, abs=1e-12)
        assert i >= 7 or lrs(work / f'iter_{i}.pth')[0] > 0  # the last step of a schedule has a rate of 0
    assert load(work / 'iter_8.pth')['meta']['iter'] == 8


def test_the_checkpoints_schedule_if_the_user_says_so(train, tmp_path, seg, short, capfd):
    resume(train, longer(tmp_path, seg), short, '--resume-with', 'checkpoint')
    assert lrs(short / 'iter_8.pth') == [0.0]
    assert "schedule and optimizer settings are the checkpoint's" in capfd.readouterr().err


def test_optimizer_settings_and_batches_are_told(train, tmp_path, seg, short, capfd):
    text = (
        POLY.format(end=4) + 'optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=0.01))\n'
        'train_dataloader = dict(batch_size=1)\n'
    )
    cfg = config(tmp_path, 'other', seg, text)
    checkpoint = load(short / 'iter_2.pth')
    checkpoint['meta']['world_size'] = 4
    torch.save(checkpoint, short / 'iter_2.pth')
    train.main([cfg, '--work-dir', str(short), '--resume', str(short / 'iter_2.pth'), '--check'])
    told = capfd.readouterr().err
    for words in (
        'lr of the optimizer 0.001 in the checkpoint, 0.0005 in the config',
        'weight_decay of the optimizer 0.05 in the checkpoint, 0.01 in the config',
        'train_dataloader.batch_size 2 in the checkpoint, 1 in the config',
        'processes 4 in the checkpoint, 1 in the config',
    ):
        assert words in told
    train.main(
        [cfg, '--work-dir', str(tmp_path / 'new'), '--resume', str(short / 'iter_2.pth'), '--resume-with', 'config']
    )
    (group,) = load(tmp_path / 'new' / 'iter_4.pth')['optimizer']['param_groups']
    assert (group['weight_decay'], group['initial_lr']) == (0.01, 5e-4)


def test_the_same_config_says_nothing(train, tmp_path, seg, short, capfd):
    cfg = config(tmp_path, 'short', seg, POLY.format(end=4))
    train.main([cfg, '--work-dir', str(short), '--resume', str(short / 'iter_2.pth'), '--check'])
    assert 'differs' not in capfd.readouterr().err


def test_resume_with_needs_resume(train, tmp_path, seg, fails):
    cfg = config(tmp_path, 'short', seg, POLY.format(end=4))
    assert 'add --resume' in fails(train.main, cfg, '--resume-with', 'config', status=2)


@pytest.mark.parametrize('more', ['', ', build_unused=True', ', frozen_stages=1'])
def test_an_older_run_that_built_more(train, tmp_path, seg, more):
    """Its optimizer knew blocks that no output needs, which do not train any more: state is matched by name."""
    backbone = 'model = dict(backbone=dict(arch=dict(embed_dims=16, depth=3), out_indices=1{more}))\n'
    text = POLY.format(end=4) + 'find_unused_parameters = True\n'
    # The older version built everything, and froze no more than it was told to.
    from mmvim.models import Vim

    freeze, work = Vim._freeze, tmp_path / 'work'

    def freeze_as_then(self):
        needed, self.needed = self.needed, self.depth
        freeze(self)
        self.needed = needed

    options = ', build_unused=True' + more.replace(', build_unused=True', '')
    Vim._freeze = freeze_as_then
    try:
        cfg = config(tmp_path, 'old', seg, text + backbone.format(more=options))
        train.main([cfg, '--work-dir', str(work), '--cfg-options', 'train_cfg.max_iters=2'])
    finally:
        Vim._freeze = freeze
    old = load(work / 'iter_2.pth')
    assert any('layers.2.' in name for name in old['state_dict'])
    cfg = config(tmp_path, 'new', seg, text + backbone.format(more=more))
    train.main([cfg, '--work-dir', str(work), '--resume'])
    new = load(work / 'iter_4.pth')
    assert any('layers.2.' in name for name in new['state_dict']) == ('build_unused' in more)
    frozen = ['backbone.layers.2.']
    frozen += ['backbone.patch_', 'backbone.pos_', 'backbone.layers.0.'] if 'frozen' in more else []
    names = [n for n in new['state_dict'] if not re.search('running|num_batches|_grid', n)]
    trained = [number for number, name in enumerate(names) if not name.startswith(tuple(frozen))]
    assert list(new['optimizer']['state']) == trained and new['meta']['iter'] == 4
    for number in trained:
        assert new['optimizer']['state'][number]['exp_avg'].shape == new['state_dict'][names[number]].shape
        assert new['optimizer']['state'][number]['step'] == 4, 'two steps before resuming, two after'


def test_rates_that_the_batch_size_scales_are_not_compared(train, tmp_path, seg, short, capfd):
    text = POLY.format(end=4) + 'auto_scale_lr = dict(base_batch_size=4, enable=True)\n'
    cfg = config(tmp_path, 'scaled', seg, text + 'optim_wrapper = dict(optimizer=dict(lr=2e-3))\n')
    train.main([cfg, '--work-dir', str(short), '--resume', str(short / 'iter_2.pth'), '--check'])
    assert 'lr of the optimizer' not in capfd.readouterr().err


def test_another_models_optimizer_is_refused(train, tmp_path, seg, short, fails):
    checkpoint = load(short / 'iter_4.pth')
    checkpoint['optimizer']['param_groups'][0]['params'].pop()
    torch.save(checkpoint, short / 'iter_4.pth')
    cfg = config(tmp_path, 'short', seg, POLY.format(end=4))
    line = fails(train.main, cfg, '--work-dir', short, '--resume', short / 'iter_4.pth', status=2)
    assert 'has the optimizer state of' in line and 'load_from=' in line
