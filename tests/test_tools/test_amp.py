"""``--amp`` and ``--amp bf16`` on the command line: what each does, and what is told early."""

import pytest
import tiny_runs as tiny
import torch
from mmengine.config import Config

from mmvim import cli
from mmvim.cli import machine
from mmvim.cli.arguments import name_amp
from mmvim.cli.commands import train as command
from mmvim.engine.optimizers import Bfloat16OptimWrapper


def config_of(wrapper: str = 'OptimWrapper', **settings) -> Config:
    return Config({'optim_wrapper': {'type': wrapper, 'optimizer': {'type': 'SGD', 'lr': 0.1}, **settings}})


@pytest.mark.parametrize(
    ('words', 'amp'),
    [
        (['a.py'], None),
        (['a.py', '--amp'], 'fp16'),
        (['--amp', 'a.py'], 'fp16'),
        (['--amp', '--check', 'a.py'], 'fp16'),
        (['a.py', '--amp', 'bf16'], 'bf16'),
        (['--amp', 'bf16', 'a.py'], 'bf16'),
        (['--amp=bf16', 'a.py'], 'bf16'),
        (['--amp', 'fp16', 'a.py'], 'fp16'),
        (['a.py', '--cfg-options', 'x=1', '--amp', 'bf16'], 'bf16'),
    ],
)
def test_words(words, amp):
    args = command._parse_args(words)
    assert (args.config, args.amp) == ('a.py', amp)


def test_other_words(capsys):
    with pytest.raises(SystemExit):
        command._parse_args(['a.py', '--amp', 'fp8'])
    assert "invalid choice: 'fp8'" in capsys.readouterr().err
    assert name_amp(['a.py', '--', '--amp']) == ['a.py', '--', '--amp']


def trains(train, config, tmp_path, *more):
    """Train with ``--amp bf16`` and return the dtypes of what convolutions put out, and the last checkpoint."""
    seen = set()
    enter = Bfloat16OptimWrapper.optim_context

    def look(self, model):
        for part in model.modules() if not seen else ():
            if isinstance(part, torch.nn.Conv2d):
                part.register_forward_hook(lambda m, a, y: seen.add((m.training, y.dtype)))
        return enter(self, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bfloat16OptimWrapper, 'optim_context', look)
        patch.setattr(machine, 'get_device', lambda: 'cpu')
        train.main([str(config), '--work-dir', str(tmp_path / 'work'), '--amp', 'bf16', *more])
    saved = max((tmp_path / 'work').glob('*.pth'), key=lambda path: path.stat().st_mtime)
    return seen, torch.load(saved, weights_only=False)


def test_a_segmentor(train, seg, tmp_path):
    seen, saved = trains(train, seg, tmp_path)
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}, 'validation stays in float32'
    losses = saved['message_hub']['log_scalars']['train/loss'].data[0]
    assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
    assert {value.dtype for value in saved['state_dict'].values() if value.is_floating_point()} == {torch.float32}
    assert 'loss_scaler' not in saved['optimizer']


@pytest.mark.full
def test_a_detector(train, det, tmp_path):
    """RoIAlign, NMS and the masks' losses, of which mmcv has no bfloat16."""
    seen, saved = trains(train, det, tmp_path)
    assert (True, torch.bfloat16) in seen and (True, torch.float32) not in seen
    assert all(0 < loss < 50 for loss in saved['message_hub']['log_scalars']['train/loss'].data[0])


@pytest.mark.full
def test_the_configs_mixed_precision_gives_way(train, ade, tmp_path, capsys):
    """Of a config for float16: its loss scaling goes, without a word of fp32."""
    config = tiny.seg_config(tmp_path / f'amp_{tmp_path.name}.py', ade, wrapper='AmpOptimWrapper')
    options = ('--cfg-options', 'train_cfg.max_iters=2', 'optim_wrapper.loss_scale=dynamic')
    seen, saved = trains(train, config, tmp_path, *options)
    assert (True, torch.bfloat16) in seen and saved['meta']['iter'] == 2
    assert 'fp32 instead' not in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize('first', [(), ('--amp', 'bf16')])
def test_a_run_resumes_in_the_other_precision(first, train, seg, tmp_path):
    work, second = ('--work-dir', str(tmp_path / 'work')), () if first else ('--amp', 'bf16')
    for number, amp in enumerate((first, second)):
        config = tmp_path / f'part{number}_{tmp_path.name}.py'
        config.write_text(f"_base_ = './{seg.name}'\ntrain_cfg = dict(max_iters={2 + 2 * number})\n")
        train.main([str(config), *work, *amp, *(('--resume',) if number else ())])
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()


def test_what_is_not_supported(monkeypatch):
    with pytest.raises(cli.UserError, match=r'--amp bf16 works with OptimWrapper.*mmvim\.Sharpened'):
        cli.set_precision(config_of('mmvim.Sharpened'), 'bf16')
    cfg = config_of()
    cfg.runner_type = 'FlexibleRunner'
    with pytest.raises(cli.UserError, match='strategy of FlexibleRunner sets the precision itself'):
        cli.set_precision(cfg, 'bf16')
    monkeypatch.setattr(machine, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla T4')
    with pytest.raises(cli.UserError, match='Tesla T4 does not compute in bfloat16; pass --amp alone') as error:
        cli.set_precision(config_of(), 'bf16')
    assert error.value.status == 1
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: True)
    cfg = config_of('AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    cli.set_precision(cfg, 'bf16')
    assert cfg.optim_wrapper.type == 'mmvim.Bfloat16OptimWrapper' and set(cfg.optim_wrapper) == {'type', 'optimizer'}
    monkeypatch.setattr(machine, 'get_device', lambda: 'mps')
    with pytest.raises(cli.UserError, match='GPU of a Mac'):
        cli.set_precision(config_of(), 'bf16')


def test_amp_alone_stays_float16(monkeypatch):
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    for amp in ('fp16', True):
        cfg = config_of()
        cli.set_precision(cfg, amp)
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
        assert 'dtype' not in cfg.optim_wrapper
    with pytest.raises(cli.UserError, match='the config has bfloat16'):
        cli.set_precision(config_of('AmpOptimWrapper', dtype='bfloat16'), 'fp16')
    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    with pytest.raises(cli.UserError, match=r'--amp needs a GPU.*or pass --amp bf16'):
        cli.set_precision(config_of(), 'fp16')


@pytest.mark.parametrize(('has', 'warned'), [(True, False), (False, True)])
def test_a_cpu_without_instructions(has, warned, monkeypatch, capsys):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(machine, 'cpu_has_bfloat16', lambda: has)
    cli.set_precision(config_of(), 'bf16')
    assert ('no instructions for bfloat16' in capsys.readouterr().err) == warned
