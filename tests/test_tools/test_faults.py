"""What ends a run from outside is one line, with the checkpoint from which it goes on; nothing saved is lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs as tiny
import torch

from mmvim import checkpoints
from mmvim.cli import UserError
from mmvim.cli.faults import run_errors

NO_VAL = 'val_cfg = val_dataloader = val_evaluator = None\n'


def variant(base, text, name='variant'):
    """A config of its own for each run: MMEngine shares loggers and message hubs between runs of one name."""
    path = base.with_name(f'{name}_{base.name}')
    path.write_text(f"_base_ = './{base.name}'\ncustom_imports = dict(imports=['fault_parts'])\n{text}")
    return path


def saved(work):
    """The iteration of the last checkpoint, after a look at all that are there."""
    for path in Path(work).glob('*.pth'):
        checkpoints.load_file(str(path))
        checkpoints.check_bytes(str(path))
    return checkpoints.load_file((Path(work) / 'last_checkpoint').read_text())['meta']['iter']


def log(work):
    return ''.join(path.read_text() for path in Path(work).glob('*/*.log'))


@pytest.fixture
def broken(tmp_path, ade):
    """A copy of the data set in which the third picture is cut off."""
    root = tmp_path / 'broken'
    shutil.copytree(ade, root)
    picture = root / 'images/training/ADE_002.jpg'
    picture.write_bytes(picture.read_bytes()[:-200])
    return root


def test_a_truncated_picture_is_named(train, fails, tmp_path, broken):
    config = tiny.seg_config(tmp_path / 'base.py', broken)
    # A look at some samples finds it before the run begins, unless it is not among them.
    arguments = (train.main, config, '--work-dir', tmp_path / 'work')
    line = fails(*arguments, status=1)
    assert 'ADE_002.jpg is truncated' in line and '--unreadable skip' in line and not (tmp_path / 'work').exists()


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_truncated_picture_ends_a_run(train, fails, tmp_path, broken, monkeypatch, workers):
    monkeypatch.setattr('mmvim.cli.commands.train.check_samples', lambda *arguments, **options: [])
    config = variant(tiny.seg_config(tmp_path / 'base.py', broken), NO_VAL)
    options = ('--cfg-options', f'train_dataloader.num_workers={workers}')
    line = fails(train.main, config, '--work-dir', tmp_path / 'work', *options, status=1)
    assert line.startswith('error: ') and 'images/training/ADE_002.jpg is truncated (' in line
    assert "mmvim.UnreadableFilesHook(action='skip')" in line


def test_a_truncated_picture_is_left_out(train, tmp_path, broken, capsys):
    config = variant(tiny.seg_config(tmp_path / 'base.py', broken), NO_VAL)
    work = tmp_path / 'work'
    train.main([str(config), '--work-dir', str(work), '--unreadable', 'skip', '--cfg-options', 'train_cfg.max_iters=3'])
    assert 'warning: ' in capsys.readouterr().err
    assert saved(work) == 3
    assert 'ADE_002.jpg is truncated' in log(work)
    assert 'pictures that cannot be read were left out so far' in log(work)


def test_in_a_config(train, tmp_path, broken):
    """The hook of the config counts, not the command's own."""
    text = NO_VAL + "custom_hooks = [dict(type='mmvim.UnreadableFilesHook', action='skip')]\n"
    config = variant(tiny.seg_config(tmp_path / 'base.py', broken), text)
    arguments = [str(config), '--work-dir', str(tmp_path / 'work'), '--unreadable', 'skip']
    train.main([*arguments, '--cfg-options', 'train_cfg.max_iters=3'])
    assert log(tmp_path / 'work').count('were left out so far') == 1


def test_a_truncated_picture_in_a_test(train, evaluate, fails, tmp_path, ade, seg, monkeypatch):
    """It cannot be left out: the score would be of other pictures."""
    monkeypatch.setattr('mmvim.cli.commands.test.check_samples', lambda *arguments, **options: [])
    work = str(tmp_path / 'work')
    train.main([str(variant(seg, NO_VAL)), '--work-dir', work, '--cfg-options', 'train_cfg.max_iters=1'])
    root = tmp_path / 'broken'
    shutil.copytree(ade, root)
    picture = root / 'images/validation/ADE_001.jpg'
    picture.write_bytes(b'')
    config = tiny.seg_config(tmp_path / 'test.py', root)
    line = fails(evaluate.main, config, tmp_path / 'work/iter_1.pth', '--work-dir', work, status=1)
    assert 'images/validation/ADE_001.jpg is empty' in line


@pytest.mark.slow
def test_detector(train, fails, tmp_path, coco):
    """MMDetection's pipelines, inside RepeatDataset."""
    root = tmp_path / 'broken'
    shutil.copytree(coco, root)
    (root / 'images/000000000001.jpg').write_bytes(b'')
    config = variant(tiny.det_config(tmp_path / 'det.py', root), NO_VAL)
    assert '000000000001.jpg is empty' in fails(train.main, config, '--work-dir', tmp_path / 'work', status=1)
    train.main([str(config), '--work-dir', str(tmp_path / 'work'), '--unreadable', 'skip'])
    assert 'were left out so far' in log(tmp_path / 'work')


@pytest.mark.slow
def test_a_data_worker_dies(tmp_path, seg):
    text = NO_VAL + (
        "pipeline = [dict(type='LoadImageFromFile'), dict(type='DyingWorker', name='ADE_003'),\n"
        "    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]\n"
        'train_dataloader = dict(num_workers=1, persistent_workers=True, dataset=dict(pipeline=pipeline))\n'
        'train_cfg = dict(max_iters=40)\n'
    )
    # In a process of its own: PyTorch tells of a dead worker at every later signal of a child, too.
    command = (sys.executable, tiny.TOOLS / 'train.py', variant(seg, text), '--work-dir', 'work')
    result = tiny.run(*command, cwd=tmp_path, PYTHONPATH=str(Path(__file__).parent))
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if not line.startswith('warning')]
    assert line.startswith('error: a data worker (process ')
    assert 'killed by signal: Killed' in line or 'exited unexpectedly' in line  # whichever PyTorch sees first
    assert 'num_workers=1' in line and ('--resume' in line or 'start again' in line)


def test_a_data_worker_dies_while_other_code_runs(tmp_path):
    """As while MMEngine formats its config: what that makes of it is no error of the config."""
    words = r'a data worker \(process 7\) died: it is killed by signal: Killed; .*start again'
    with pytest.raises(UserError, match=words), run_errors(str(tmp_path)):
        try:
            raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
        except RuntimeError as error:
            raise SyntaxError('Failed to format the config file') from error
    with pytest.raises(SyntaxError), run_errors(str(tmp_path)):
        raise SyntaxError('of a config')


@pytest.fixture
def heard_interrupts():
    """What a shell starts in the background ignores Ctrl-C; these tests do not, nor what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heard_interrupts')
def test_ctrl_c(train, fails, tmp_path, seg):
    """The process's own signal, in the middle of an iteration."""
    text = NO_VAL + "custom_hooks = [dict(type='SignalAt', iteration=4)]\n"
    work = tmp_path / 'work'
    line = fails(train.main, variant(seg, text), '--work-dir', work, status=130)
    assert line == f'error: interrupted; go on from {work}/iter_2.pth with --resume'
    assert saved(work) == 2
    train.main([str(variant(seg, NO_VAL, 'resumed')), '--work-dir', str(work), '--resume'])
    assert saved(work) == 4


@pytest.mark.full
@pytest.mark.usefixtures('heard_interrupts')
def test_ctrl_c_as_a_user_sees_it(tmp_path, seg):
    """The whole group of processes gets the signal, data workers among them: one line, no traceback."""
    config = variant(seg, NO_VAL)
    command = [sys.executable, str(tiny.TOOLS / 'train.py'), str(config), '--work-dir', 'work', '--cfg-options']
    options = ['train_cfg.max_iters=100000', 'train_dataloader.num_workers=1', 'default_hooks.logger.interval=100000']
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{tiny.ROOT}:{Path(__file__).parent}'}
    process = subprocess.Popen(
        command + options, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        work = tmp_path / 'work'
        for _ in range(600):
            if (work / 'last_checkpoint').exists():
                break
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    lines = [line for line in error.splitlines() if not line.startswith('warning')]
    assert len(lines) == 1 and lines[0].startswith(f'error: interrupted; go on from {work}/iter_'), error
    assert saved(work) >= 2


def test_a_loss_that_is_not_finite(train, fails, tmp_path, seg):
    text = NO_VAL + "custom_hooks = [dict(type='NaNAt', iteration=3)]\n"
    # Of five pictures the third pair is the last and the first: shuffled, they may be one, which is named once.
    text += 'train_dataloader = dict(sampler=dict(shuffle=False))\n'
    work = tmp_path / 'work'
    arguments = (train.main, variant(seg, text), '--work-dir', work, '--non-finite')
    line = fails(*arguments, 'stop', status=1)
    assert 'the loss of iteration 3 is not finite (decode.loss_ce=nan), on ' in line
    assert line.count('/images/training/ADE_') == 2 and saved(work) == 2


def test_a_step_that_is_left_out(train, tmp_path, seg):
    text = NO_VAL + "custom_hooks = [dict(type='NaNAt', iteration=3)]\n"
    train.main([str(variant(seg, text)), '--work-dir', str(tmp_path / 'work'), '--non-finite', 'skip'])
    assert saved(tmp_path / 'work') == 4
    assert 'the loss of iteration 3 is not finite' in log(tmp_path / 'work')
    last = torch.load(tmp_path / 'work/iter_4.pth', weights_only=False)
    assert all(value.isfinite().all() for value in last['state_dict'].values())


def test_a_full_disk(train, fails, tmp_path, seg, monkeypatch):
    original = os.fsync

    def full(descriptor):
        if 'iter_4' in os.readlink(f'/proc/self/fd/{descriptor}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    if not Path('/proc/self/fd').exists():
        pytest.skip('this system does not tell which file is open')
    monkeypatch.setattr(os, 'fsync', full)
    work = tmp_path / 'work'
    line = fails(train.main, variant(seg, NO_VAL), '--work-dir', work, status=1)
    assert f'{work}/iter_4.pth cannot be written: No space left on device' in line
    assert f'the last whole checkpoint is {work}/iter_2.pth' in line and 'make room' in line
    assert saved(work) == 2 and not list(work.glob('*iter_4*'))


@pytest.fixture
def two_checkpoints(train, tmp_path, seg):
    work = tmp_path / 'work'
    train.main([str(variant(seg, NO_VAL)), '--work-dir', str(work), '--cfg-options', 'train_cfg.max_iters=4'])
    return work


def test_a_damaged_checkpoint(train, fails, tmp_path, seg, two_checkpoints):
    """Cut, emptied, one bit changed: the one before is named. Lost, or never written down: as well."""
    work, config = two_checkpoints, variant(seg, NO_VAL, 'again')
    last = work / 'iter_4.pth'
    whole = last.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data, words in ((whole[: len(whole) // 2], 'truncated'), (b'', '0 bytes'), (flipped, 'checksum')):
        last.write_bytes(data)
        line = fails(train.main, config, '--work-dir', work, '--resume', status=1)
        assert f'--resume {last} ' in line and words in line
        assert line.endswith(f'the last one there that can be resumed is {work}/iter_2.pth: --resume {work}/iter_2.pth')
    last.unlink()
    line = fails(train.main, config, '--work-dir', work, '--resume', status=1)
    assert 'iter_4.pth, which does not exist; ' in line and f'--resume {work}/iter_2.pth' in line
    (work / 'last_checkpoint').write_text('')
    assert 'last_checkpoint is empty; ' in fails(train.main, config, '--work-dir', work, '--resume', status=1)
    (work / 'iter_2.pth').write_bytes(whole[:100])
    last.write_bytes(whole[:100])
    line = fails(train.main, config, '--work-dir', work, '--resume', last, status=1)
    assert 'that can be resumed' not in line


def test_a_hook_of_another_kind_stays(tmp_path):
    from mmengine.config import Config

    from mmvim.cli.faults import save_durably

    for hooks, kind in (
        (None, 'mmvim.CheckpointHook'),
        ({'checkpoint': {'type': 'mmengine.CheckpointHook'}}, 'mmvim.CheckpointHook'),
        ({'checkpoint': {'type': 'Mine'}}, 'Mine'),
    ):
        cfg = Config({'default_hooks': hooks} if hooks else {})
        save_durably(cfg)
        assert cfg.default_hooks.checkpoint.type == kind
    cfg = Config({'default_hooks': {'checkpoint': None}})
    save_durably(cfg)
    assert cfg.default_hooks.checkpoint is None
