"""Checkpoints at every moment of saving: a process that dies, a full disk, what is removed, and in which order."""

import errno
import os
import time
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from small_runs import Classifier, Numbers, runner, stack, weights

from mmvim import checkpoints
from mmvim.engine import durable
from mmvim.engine.hooks import CheckpointWriteError, ResumeError, ResumeHook, checkpoint

KIND = 'mmvim.CheckpointHook'


@pytest.fixture(autouse=True)
def _quick(quick_runners):
    """All of these run small models."""


class Died(BaseException):
    """Stands for the end of the process: nothing catches it to go on."""


def saving(**arguments):
    return {'type': KIND, 'by_epoch': False, 'interval': 2, **arguments}


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file() and path.suffix != '.py')


def whole(folder):
    """Check all that could be picked up, and return the iteration of the last checkpoint."""
    for path in Path(folder).glob('*.pth'):
        checkpoints.load_file(str(path))
    named = Path((Path(folder) / 'last_checkpoint').read_text())
    saved = checkpoints.load_file(str(named))
    assert named.name == f'iter_{saved["meta"]["iter"]}.pth'
    return saved['meta']['iter']


def test_saves_as_the_stock_hook_does(tmp_path):
    found = {}
    for kind in ('CheckpointHook', KIND):
        runner(tmp_path / kind, checkpoint=saving(type=kind, max_keep_ckpts=2)).train()
        found[kind] = names(tmp_path / kind)
        assert whole(tmp_path / kind) == 8
    assert found[KIND] == found['CheckpointHook'] == ['iter_6.pth', 'iter_8.pth', 'last_checkpoint']
    stock, own = (torch.load(tmp_path / kind / 'iter_8.pth', weights_only=False) for kind in found)
    assert set(stock) == set(own)
    assert all(torch.equal(value, own['state_dict'][name]) for name, value in stock['state_dict'].items())


def moments(monkeypatch, until):
    """Let the process die at the ``until``-th call into the file system, counted over all that saving makes."""
    count = 0

    def watch(owner, name):
        original = getattr(owner, name)

        def call(*args, **options):
            nonlocal count
            count += 1
            if count == until:
                raise Died(name)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((os, 'fsync'), (os, 'replace'), (Path, 'unlink'), (os, 'remove'), (os, 'open')):
        watch(owner, name)
    # What a dead process cannot do either:
    for module in (durable, checkpoint):
        monkeypatch.setattr(module, 'discard', lambda path: None)


@pytest.mark.parametrize('moment', range(1, 30, 3))
def test_whenever_the_process_dies(tmp_path, monkeypatch, moment):
    """The old checkpoint or the new one, never half of one; and the next run goes on from it and tidies up."""
    arguments = saving(interval=1, max_keep_ckpts=1)
    runner(tmp_path, checkpoint=arguments, iterations=2, name='first').train()
    assert whole(tmp_path) == 2
    with monkeypatch.context() as patch:
        second = runner(tmp_path, checkpoint=arguments, iterations=5, name='second', resume=True)
        moments(patch, moment)
        with pytest.raises(Died):
            second.train()
    last = whole(tmp_path)
    assert last >= 2
    third = runner(tmp_path, checkpoint=arguments, iterations=6, name='third', resume=True)
    begun = []
    third.register_hook(Note(begun))
    third.train()
    assert begun == [last] and whole(tmp_path) == 6
    assert names(tmp_path) == ['iter_6.pth', 'last_checkpoint']


class Note(Hook):
    """Note at which iteration a training begins."""

    def __init__(self, begun):
        self.begun = begun

    def before_train(self, runner):
        self.begun.append(runner.iter)


def test_stock_hook_does_not_pass(tmp_path, monkeypatch):
    """The control: with MMEngine's hook the last checkpoint is removed before the new one is there."""
    arguments = saving(type='CheckpointHook', interval=1, max_keep_ckpts=1)
    runner(tmp_path, checkpoint=arguments, iterations=2, name='first').train()
    with monkeypatch.context() as patch:
        second = runner(tmp_path, checkpoint=arguments, iterations=5, name='second', resume=True)
        patch.setattr('mmengine.fileio.LocalBackend.put', lambda *args: (_ for _ in ()).throw(Died()))
        with pytest.raises(Died):
            second.train()
    with pytest.raises(checkpoints.CheckpointError):
        whole(tmp_path)


@pytest.mark.parametrize('where', ['write', 'fsync', 'last_checkpoint'])
def test_full_disk(tmp_path, monkeypatch, where):
    """An error that says so; what was there stays, and nothing else."""
    runner(tmp_path, checkpoint=saving(max_keep_ckpts=1), iterations=2, name='first').train()
    before = names(tmp_path)

    def full(path, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def put(self, data, path):
        Path(path).write_bytes(data[: len(data) // 2])
        full(path)

    if where == 'write':
        monkeypatch.setattr('mmengine.fileio.LocalBackend.put', put)
    elif where == 'fsync':
        monkeypatch.setattr(os, 'fsync', full)
    else:
        monkeypatch.setattr(checkpoint, 'write_text', full)
    second = runner(tmp_path, checkpoint=saving(max_keep_ckpts=1), iterations=4, name='second', resume=True)
    with pytest.raises(CheckpointWriteError, match='No space left on device') as error:
        second.train()
    assert ('last_checkpoint' if where == 'last_checkpoint' else 'iter_4.pth') in error.value.problem
    assert 'make room' in error.value.remedy
    assert whole(tmp_path) == 2
    assert set(names(tmp_path)) - set(before) == ({'iter_4.pth'} if where == 'last_checkpoint' else set())


def test_a_full_disk_of_its_own(tmp_path):
    """`/dev/full` takes no byte: the system's own error, not one of a test."""
    if not Path('/dev/full').exists():
        pytest.skip('this system has no /dev/full')
    target = tmp_path / 'note'
    target.write_text('before')
    (tmp_path / f'note{durable.PARTIAL}').symlink_to('/dev/full')
    with pytest.raises(OSError) as error:
        durable.write_text(target, 'after')
    assert error.value.errno == errno.ENOSPC
    assert target.read_text() == 'before' and names(tmp_path) == ['note']


class Score(BaseMetric):
    """A score that the test chooses, by iteration."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'acc': self.scores.pop(0)}


def validated(tmp_path, scores, **settings):
    return runner(
        tmp_path,
        checkpoint=saving(save_best='acc', max_keep_ckpts=1, **settings),
        val_dataloader={
            'dataset': Numbers(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 16,
            'num_workers': 0,
            'collate_fn': stack,
        },
        val_cfg={},
        val_evaluator=Evaluator(Score(scores)),
    )


def test_best_checkpoint(tmp_path, monkeypatch):
    """The best one so far is removed only when a better one is there."""
    there = []
    monkeypatch.setattr(Classifier, 'val_step', lambda self, data: [None])
    original = durable.publish
    monkeypatch.setattr(
        checkpoint,
        'publish',
        lambda partial, target, **options: (
            there.append((target.name, names(tmp_path))),
            original(partial, target, **options),
        ),
    )
    validated(tmp_path, [0.1, 0.5, 0.4, 0.6]).train()
    assert names(tmp_path) == ['best_acc_iter_8.pth', 'iter_8.pth', 'last_checkpoint']
    assert checkpoints.load_file(str(tmp_path / 'iter_8.pth'))['message_hub']['runtime_info']['best_ckpt'] == str(
        tmp_path / 'best_acc_iter_8.pth'
    )
    for name, files in there:
        if name in ('best_acc_iter_4.pth', 'best_acc_iter_8.pth'):
            assert f'best_acc_iter_{2 if "_4" in name else 4}.pth' in files
            assert f'{name}{durable.PARTIAL}' in files and name not in files


def test_a_node_without_the_checkpoint(tmp_path, monkeypatch):
    """The processes that begin at 0 are not trained with those that go on."""
    run = runner(tmp_path, [ResumeHook()], name='node')
    monkeypatch.setattr('mmvim.engine.hooks.resume.all_gather_object', lambda iteration: [2, iteration])
    with pytest.raises(ResumeError, match=r'at different iterations \(2, 0\); each node needs the checkpoint'):
        run.train()


def test_published_keys(tmp_path):
    runner(tmp_path, checkpoint=saving(interval=8, published_keys=['state_dict']), name='published').train()
    [published] = tmp_path.glob('iter_8-*.pth')
    assert set(checkpoints.load_file(str(published))) == {'state_dict'}
    assert len(published.stem) == len('iter_8-') + 8


@pytest.mark.parametrize('jump', [-50, 50])
def test_a_clock_that_jumps(tmp_path, monkeypatch, jump):
    """Fifty years forth or back in the middle of a run: same weights, same last checkpoint, and it resumes."""
    straight = runner(tmp_path / 'straight', checkpoint=saving())
    straight.train()
    clock, real = [0.0], time.time

    class Jump(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                clock[0] = jump * 365.25 * 86400

    monkeypatch.setattr(time, 'time', lambda: max(real() + clock[0], 0.0))
    runner(tmp_path / 'jumped', [Jump()], checkpoint=saving(), iterations=6, name='jumps').train()
    clock[0] = -clock[0]
    for path in (tmp_path / 'jumped').glob('*.pth'):  # the oldest looks newest
        age = int(path.stem.split('_')[-1])
        os.utime(path, (real() - age * 1e6, real() - age * 1e6))
    resumed = runner(tmp_path / 'jumped', [], checkpoint=saving(), name='resumed', resume=True)
    begun = []
    resumed.register_hook(Note(begun))
    resumed.train()
    assert begun == [6] and whole(tmp_path / 'jumped') == 8
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(resumed)[name]), name
