"""Whatever the user can put right is one line with a remedy; nothing is written."""

import shutil
import sys

import pytest
import tiny_runs as tiny
import torch


class Forbidden:
    """A class that no checkpoint may bring."""


@pytest.fixture
def checkpoint(tmp_path, seg):
    """Weights of the tiny segmentor."""
    from mmvim import cli

    model = cli.build_model(cli.load_config(str(seg)))
    path = tmp_path / 'weights.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return path


@pytest.fixture
def untouched(tmp_path, seg):
    """Check that a test leaves the work dir, and the folder it works in, as they were."""
    work_dir = tmp_path / 'work'
    yield work_dir
    assert not work_dir.exists()


def test_command_line(train, evaluate, fails, seg):
    assert 'required: CONFIG' in fails(train.main, status=2)
    assert 'CHECKPOINT' in fails(evaluate.main, seg, status=2)
    assert '--amq' in fails(train.main, seg, '--amq', status=2)
    assert 'KEY=VALUE' in fails(train.main, seg, '--cfg-options', 'model.backbone.depth', status=2)
    assert 'KEY=VALUE' in fails(train.main, seg, '--cfg-options', 'a=[1,2', status=2)
    assert 'RANK is not set' in fails(train.main, seg, '--launcher', 'pytorch', status=2)


def test_config_file(train, fails, tmp_path, seg):
    missing = fails(train.main, tmp_path / 'seq.py', status=2)
    assert 'does not exist' in missing and seg.name in missing
    assert 'is a directory' in fails(train.main, tmp_path, status=2)
    (tmp_path / 'weights.pth').write_bytes(b'')
    assert 'does not end in' in fails(train.main, tmp_path / 'weights.pth', status=2)
    bad = tmp_path / 'bad.py'
    for text, word in (
        ("_base_ = './nowhere.py'", 'nowhere.py'),
        ('model = dict(', 'SyntaxError'),
        ('model = backbone', 'NameError'),
        ("_base_ = 'mmseg::_base_/nothing.py'", 'nothing.py'),
        ("default_scope = 'mmseg'", 'has no model'),
        ('model = dict()', 'default_scope'),
        ("model = dict()\ndefault_scope = 'mmzoo'", 'mmzoo is not installed'),
    ):
        bad.write_text(text)
        assert word in fails(train.main, bad, status=1 if 'mmzoo' in text else 2)


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('modle.backbone.arch=tiny', 'did you mean model?'),
        ('model.bakbone.arch=tiny', 'did you mean model.backbone?'),
        ('model.backbone.drop_path=0.1', "Vim has no 'drop_path'"),
        ('model.decode_head.dropout_ration=0.', 'did you mean model.decode_head.dropout_ratio?'),
        ('model.test_cfg.modes=slide', 'did you mean model.test_cfg.mode?'),
        ('optim_wrapper.optimzer.lr=1', 'did you mean optim_wrapper.optimizer?'),
        ('optim_wrapper.optimizer.learning_rate=1', "AdamW has no 'learning_rate'"),
        ('train_cfg.max_iter=1', 'did you mean train_cfg.max_iters?'),
        ('train_dataloader.datset.data_root=x', 'did you mean train_dataloader.dataset?'),
        ('train_dataloader.dataset.data_rot=x', 'did you mean train_dataloader.dataset.data_root?'),
        ('train_dataloader.dataset.pipeline.9.scale=1', 'no index'),
        ('default_hooks.checkpoint.intervall=1', 'did you mean default_hooks.checkpoint.interval?'),
        ('randomness.sed=1', 'did you mean randomness.seed?'),
        ('log_level.x=1', "log_level is 'INFO', not a dict"),
    ],
)
def test_option_that_nothing_reads(train, fails, seg, untouched, option, words):
    assert words in fails(train.main, seg, '--work-dir', untouched, '--cfg-options', option, status=2)


@pytest.mark.parametrize(
    'option',
    [
        'model.backbone.frozen_stages=1',
        'model.backbone.init_cfg.type=Pretrained',
        'optim_wrapper.clip_grad.max_norm=1.',
        'optim_wrapper.paramwise_cfg.norm_decay_mult=0.',
        'model.test_cfg.crop_size=(32,32)',
        'randomness.seed=1',
        'train_dataloader.pin_memory=True',
        'find_unused_parameters=True',
        'val_cfg.fp16=False',
        'train_dataloader.dataset.pipeline.3.crop_size=(32,32)',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'model.backbone.type=mmvim.MambaVision',
        'env_cfg.dist_cfg.timeout=10',
    ],
)
def test_option_that_the_config_does_not_mention(seg, option):
    from mmvim import cli

    key, value = option.split('=', 1)
    cfg = cli.load_config(str(seg), {key: value})
    node = cfg
    for part in key.split('.'):
        node = node[int(part) if part.isdigit() else part]
    assert node == value


def test_variable_of_the_config_file(train, seg, untouched, capsys):
    train.main([str(seg), '--work-dir', str(untouched), '--check', '--cfg-options', 'data_root=elsewhere'])
    assert 'warning: --cfg-options data_root: data_root is only a variable' in capsys.readouterr().err


def test_missing_data(train, evaluate, fails, tmp_path, ade, seg, checkpoint, untouched):
    nowhere = tmp_path / 'nowhere'
    line = fails(train.main, tiny.seg_config(tmp_path / 'a.py', nowhere), '--work-dir', untouched, status=1)
    assert f'{nowhere}/images/training does not exist' in line
    assert 'train_dataloader.dataset.data_root=PATH val_dataloader.dataset.data_root=PATH' in line
    line = fails(evaluate.main, tmp_path / 'a.py', checkpoint, '--work-dir', untouched, status=1)
    assert f'{nowhere}/images/validation does not exist' in line and 'test_dataloader.dataset.data_root' in line

    root = tmp_path / 'partial'
    shutil.copytree(ade, root)
    config = tiny.seg_config(tmp_path / 'b.py', root)
    arguments = (train.main, config, '--work-dir', untouched)
    (root / 'annotations/training/ADE_000.png').unlink()
    masks = [p.stem for p in (root / 'annotations/training').iterdir()]
    for picture in (root / 'images/training').iterdir():
        if picture.stem in masks:
            picture.unlink()
    assert 'annotations/training/ADE_000.png does not exist' in fails(*arguments, status=1)
    (root / 'images/training/ADE_000.jpg').rename(root / 'images/training/ADE_000.png')
    assert 'holds no .jpg' in fails(*arguments, status=1)
    shutil.rmtree(root / 'annotations/validation')
    shutil.copytree(ade / 'images/training', root / 'images/training', dirs_exist_ok=True)
    shutil.copytree(ade / 'annotations/training', root / 'annotations/training', dirs_exist_ok=True)
    assert 'annotations/validation does not exist' in fails(*arguments, status=1)


def test_missing_data_of_wrapped_data_sets(train, fails, seg, untouched):
    wrapped = seg.with_name('wrapped.py')
    wrapped.write_text(
        f"_base_ = './{seg.name}'\n"
        "other = dict(type='ADE20KDataset', data_root='none', data_prefix=dict(img_path='a'))\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, "
        "dataset=dict(type='ConcatDataset', datasets=[other])))\n"
    )
    line = fails(train.main, wrapped, '--work-dir', untouched, status=1)
    assert 'none/a does not exist' in line
    assert 'train_dataloader.dataset.dataset.datasets.0.data_root=PATH' in line


def test_missing_detection_data(train, fails, tmp_path, coco, det, untouched):
    arguments = (train.main, det, '--work-dir', untouched, '--cfg-options')
    line = fails(*arguments, 'train_dataloader.dataset.dataset.ann_file=train.json', status=1)
    assert f'{coco}/train.json does not exist' in line and 'train_dataloader.dataset.dataset.data_root=PATH' in line
    line = fails(*arguments, 'val_evaluator.ann_file=val.json', status=1)
    assert 'val.json does not exist' in line and 'val_evaluator.ann_file=PATH' in line


def test_model_that_cannot_be_built(train, fails, seg, untouched):
    arguments = (train.main, seg, '--work-dir', untouched, '--cfg-options')
    assert "'mmvim.Vom' is not in" in fails(*arguments, 'model.backbone.type=mmvim.Vom', status=2)
    assert 'cannot be built' in fails(*arguments, 'model.backbone.arch=enormous', status=2)
    line = fails(
        *arguments, 'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=vim.pth', status=1
    )
    assert 'model.backbone.init_cfg.checkpoint vim.pth does not exist' in line


def test_internal_error_keeps_its_traceback(train, seg, untouched, monkeypatch):
    from mmvim import cli

    monkeypatch.setattr('mmvim.models.backbones.vim.Vim.__init__', lambda self, **kwargs: kwargs['nothing'])
    with pytest.raises(KeyError):
        cli.run_tool(lambda: train.main([str(seg), '--work-dir', str(untouched)]))


def test_no_mmcv_ops(train, fails, det, untouched, monkeypatch):
    from mmvim.cli import config

    find_spec = config.find_spec
    monkeypatch.setattr(config, 'find_spec', lambda name: None if name == 'mmcv._ext' else find_spec(name))
    assert 'compiled ops' in fails(train.main, det, '--work-dir', untouched, status=1)


def test_amp(train, fails, seg, untouched, monkeypatch):
    from mmvim.cli import machine

    monkeypatch.setattr(machine, 'has_accelerator', lambda: False)
    assert '--amp needs a GPU' in fails(train.main, seg, '--work-dir', untouched, '--amp', status=1)
    monkeypatch.setattr(machine, 'has_accelerator', lambda: True)
    options = ('--cfg-options', 'optim_wrapper.type=mmvim.Sharpened')
    assert 'mmvim.Sharpened' in fails(train.main, seg, '--work-dir', untouched, '--amp', *options, status=2)


def test_scaling_without_batch_size(train, fails, seg, untouched):
    assert 'base_batch_size' in fails(train.main, seg, '--work-dir', untouched, '--auto-scale-lr', status=2)


def test_work_dir_that_is_a_file(train, fails, seg):
    assert 'is a file' in fails(train.main, seg, '--work-dir', seg / 'work', status=2)


def test_bad_checkpoint(evaluate, fails, tmp_path, seg, checkpoint, untouched):

    def attempt(path, status=1):
        return fails(evaluate.main, seg, path, '--work-dir', untouched, status=status)

    assert 'does not exist' in attempt(tmp_path / 'none.pth', status=2)
    (tmp_path / 'folder').mkdir()
    assert 'is a folder with no checkpoint' in attempt(tmp_path / 'folder')
    content = checkpoint.read_bytes()
    broken = tmp_path / 'broken.pth'
    for start, word in (
        (b'', 'is not a checkpoint'),
        (b'version https://git-lfs', 'is not a checkpoint'),
        (b'<!DOCTYPE html><html>', 'is a web page'),
        (content[: len(content) // 2], 'is truncated'),
        (b'\x80\x02}q\x00X\x03', 'is damaged'),
    ):
        broken.write_bytes(start)
        assert word in attempt(broken)
    torch.save([1, 2], broken)
    assert 'holds a list' in attempt(broken)
    torch.save({'model_ema': {'w': torch.zeros(1)}}, broken)
    assert "key='model_ema'" in attempt(broken)
    torch.save({'state_dict': {}, 'args': Forbidden()}, broken)
    assert 'Forbidden, which is not plain weights' in attempt(broken)
    torch.save({'state_dict': {'decode_head.w': torch.tensor(torch.nan)}}, broken)
    assert 'NaN' in attempt(broken)


def test_checkpoint_of_another_model(train, evaluate, fails, tmp_path, seg, checkpoint, untouched):
    weights = torch.load(checkpoint)['state_dict']
    other = tmp_path / 'other.pth'

    def attempt():
        return fails(evaluate.main, seg, other, '--work-dir', untouched, status=2)

    torch.save({'state_dict': {f'resnet.{k}': v for k, v in weights.items()}}, other)
    line = attempt()
    own = [name for name in weights if not name.endswith(('num_batches_tracked', '_grid'))]
    assert f'lacks {len(own)} weights (' in line and f'{len(weights)} that belong nowhere (resnet.' in line
    assert 'give the config that it was trained with' in line
    torch.save({'state_dict': {**weights, 'decode_head.conv_seg.weight': torch.zeros(3, 16, 1, 1)}}, other)
    line = attempt()
    assert 'decode_head.conv_seg.weight: (3, 16, 1, 1) in the file, (150, 16, 1, 1) in the model' in line
    assert 'has 1 of another shape' in line and 'lacks' not in line
    torch.save({'state_dict': {k: v for k, v in weights.items() if k != 'decode_head.conv_seg.bias'}}, other)
    assert 'lacks 1 weights (decode_head.conv_seg.bias)' in attempt()
    line = fails(train.main, seg, '--work-dir', untouched, '--resume', checkpoint, status=2)
    assert 'holds weights only' in line and f'load_from={checkpoint}' in line
    torch.save({'state_dict': {'resnet.w': torch.zeros(1)}}, other)
    line = fails(train.main, seg, '--work-dir', untouched, '--cfg-options', f'load_from={other}', status=2)
    assert f'load_from {other}' in line and 'does not fit' in line and 'belong nowhere (resnet.w)' in line


def test_resume_from_a_lost_checkpoint(train, fails, seg, tmp_path):
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
    assert 'iter_2.pth, which does not exist' in fails(train.main, seg, '--work-dir', work_dir, '--resume', status=1)


def test_test_options(evaluate, fails, seg, checkpoint, untouched, tmp_path, monkeypatch):
    arguments = (evaluate.main, seg, checkpoint, '--work-dir', untouched)
    assert 'must be a folder' in fails(*arguments, '--out', 'predictions.pkl', status=2)
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    if sys.platform.startswith('linux'):
        assert '--show-dir' in fails(*arguments, '--show', status=2)
    assert 'is a file' in fails(*arguments, '--show-dir', seg, status=2)
    assert 'visualization' in fails(
        *arguments, '--show-dir', tmp_path / 'v', '--cfg-options', 'default_hooks.visualization=None', status=2
    )
    assert '--tta needs tta_model' in fails(*arguments, '--tta', '--cfg-options', 'tta_model=None', status=2)


@pytest.mark.slow
def test_as_a_user_sees_it(tmp_path, seg):
    """The whole output of a mistake is one line; with MMVIM_DEBUG=1 the traceback comes before it."""
    command = (sys.executable, tiny.TOOLS / 'train.py', seg, '--cfg-options', 'modle.backbone.arch=tiny')
    result = tiny.run(*command, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.count('\n') == 1 and result.stderr.startswith('error: ')
    assert not (tmp_path / 'work_dirs').exists()
    nowhere = tiny.seg_config(tmp_path / 'nowhere.py', tmp_path / 'nowhere')
    result = tiny.run(sys.executable, tiny.TOOLS / 'train.py', nowhere, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count('\n')) == (1, '', 1), result.stdout + result.stderr
    result = tiny.run(*command, cwd=tmp_path, MMVIM_DEBUG='1')
    assert 'Traceback' in result.stderr and result.returncode == 1
