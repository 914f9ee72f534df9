"""A loss or a gradient that is not finite: who is named, what stays as it was, and when it is too much."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from mmengine.hooks import Hook
from small_runs import Classifier, runner, weights

from mmvim.engine.hooks import NonFiniteLossError, NonFiniteLossHook
from mmvim.engine.hooks.nonfinite import picture_names


@pytest.fixture(autouse=True)
def _quick(quick_runners):
    """All of these run small models."""


class Watch(Hook):
    """Weights, buffers and optimizer state after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.states = []

    def before_train(self, runner):
        self.states.append(self.state(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append(self.state(runner))

    @staticmethod
    def state(runner):
        optimizer = runner.optim_wrapper.optimizer.state_dict()['state']
        return {
            **weights(runner),
            **{f'{k}.{n}': v.clone() for k, values in optimizer.items() for n, v in values.items()},
        }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def skipping(tmp_path, **settings):
    watch, hook = Watch(), NonFiniteLossHook('skip', settings.pop('limit', 10))
    run = runner(tmp_path, [watch, hook], **settings)
    run.train()
    return run, watch.states


def test_stops_with_names(tmp_path):
    watch = Watch()
    run = runner(tmp_path, [watch, NonFiniteLossHook()], bad=(5,))
    with pytest.raises(NonFiniteLossError) as error:
        run.train()
    assert error.value.problem == 'the loss of iteration 3 is not finite (loss_ce=nan), on 4.jpg, 5.jpg'
    assert len(watch.states) == 3  # before the first iteration, and after two; the third ended here
    assert all(value.isfinite().all() for value in watch.state(run).values() if value.is_floating_point())


def test_without_the_hook_all_is_lost(tmp_path):
    """The control."""
    run = runner(tmp_path, bad=(5,))
    run.train()
    assert not run.model.last.weight.isfinite().any() and not run.model.norm.running_mean.isfinite().any()


@pytest.mark.parametrize('bad', [(5,), (4, 5, 8)])
def test_skips_and_counts(tmp_path, bad):
    run, states = skipping(tmp_path, bad=bad)
    left_out = {index // 2 for index in bad}
    for index, (before, after) in enumerate(pairwise(states)):
        assert equal(before, after) == (index in left_out), index
    assert run.message_hub.get_info('skipped_steps') == len(left_out)
    assert all(value.isfinite().all() for value in states[-1].values() if value.is_floating_point())
    assert 'update_params' not in vars(run.optim_wrapper)


def test_says_what_it_skips(tmp_path, capsys):
    skipping(tmp_path, bad=(5,))
    text = ' '.join(capsys.readouterr().out.split())
    assert 'iteration 3 is not finite (loss_ce=nan), on 4.jpg, 5.jpg; the step is left out, 1 so far' in text


def test_too_many_in_a_row(tmp_path):
    with pytest.raises(NonFiniteLossError, match='3 steps in a row, of which this is the last') as error:
        skipping(tmp_path, bad=(5, 6, 8), limit=2)
    assert 'iteration 5' in error.value.problem and '8.jpg' in error.value.problem
    skipping(tmp_path / 'other', bad=(5, 8, 12), limit=1)  # never two in a row


def test_changes_nothing_else(tmp_path):
    """With finite losses the run is the same to the bit."""
    plain, (guarded, _) = runner(tmp_path / 'plain'), skipping(tmp_path / 'guarded')
    plain.train()
    assert equal(weights(plain), weights(guarded))


@pytest.mark.parametrize('bad', [(0,), (3,)])
def test_accumulated_gradients(tmp_path, bad):
    """Two batches a step: whichever is bad, the step is not made, and the next one is as if it had never been."""
    settings = {'optim_wrapper': {'accumulative_counts': 2}}
    _, states = skipping(tmp_path, bad=bad, **settings)
    assert equal_weights(states[0], states[1]) and equal_weights(states[1], states[2])
    assert not equal_weights(states[3], states[4])
    assert all(value.isfinite().all() for value in states[-1].values() if value.is_floating_point())


def equal_weights(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items() if 'running' not in name and 'num_' not in name)


class Root(torch.autograd.Function):
    """Adds zero, and has a gradient that is not finite where an input is the sixth sample's."""

    @staticmethod
    def forward(ctx, x, spoil):
        ctx.spoil = spoil
        return x + 0

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * float('inf') if ctx.spoil else gradient), None


class Steep(Classifier):
    """A finite loss whose gradients are not, on the batch with 5.jpg."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        losses = super().forward(inputs, data_samples, mode)
        spoil = any(sample.img_path == '5.jpg' for sample in data_samples)
        return {**losses, 'loss_l2': Root.apply(losses['loss_l2'], spoil)}


def test_gradients(tmp_path):
    with pytest.raises(NonFiniteLossError) as error:
        runner(tmp_path / 'stop', [NonFiniteLossHook()], model=Steep()).train()
    assert error.value.problem == (
        'gradients of iteration 3 are not finite (last.weight), its loss is, on 4.jpg, 5.jpg'
    )
    run, states = skipping(tmp_path / 'skip', model=Steep())
    assert [equal(a, b) for a, b in pairwise(states)] == [i == 2 for i in range(8)]
    assert run.message_hub.get_info('skipped_steps') == 1


def test_mixed_precision(tmp_path, monkeypatch):
    """``AmpOptimWrapper``, on the CPU: its loss scaling skips gradients by itself, and the hook skips losses."""
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    monkeypatch.setattr(f'{module}.GradScaler', partial(torch.amp.GradScaler, device='cpu', init_scale=64.0))
    wrapper = {'type': 'AmpOptimWrapper', 'dtype': 'bfloat16', 'clip_grad': {'max_norm': 1.0}}
    run, states = skipping(tmp_path, bad=(5, 9), optim_wrapper=wrapper)
    assert [equal(a, b) for a, b in pairwise(states)] == [i in (2, 4) for i in range(8)]
    assert run.message_hub.get_info('skipped_steps') == 2
    assert run.optim_wrapper.loss_scaler.get_scale() == 64.0
    run, states = skipping(tmp_path / 'steep', model=Steep(), optim_wrapper={**wrapper})
    assert equal_weights(states[2], states[3]) and run.optim_wrapper.loss_scaler.get_scale() == 32.0


def test_counts_on_after_resuming(tmp_path):
    checkpoint = {'type': 'mmvim.CheckpointHook', 'by_epoch': False, 'interval': 4}
    skipping(tmp_path, bad=(5,), iterations=4, checkpoint=checkpoint, name='first')
    run, _ = skipping(tmp_path, bad=(9,), checkpoint=checkpoint, name='second', resume=True)
    assert run.message_hub.get_info('skipped_steps') == 2


@pytest.mark.parametrize(('arguments', 'words'), [({'action': 'go'}, "action='go'"), ({'limit': 0}, 'limit=0')])
def test_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        NonFiniteLossHook(**arguments)


def test_names_in_any_batch():
    from small_runs import Sample

    def sample(path):
        return Sample(metainfo={'img_path': path})

    assert picture_names({'sup': {'data_samples': [sample('a')]}, 'unsup': [[sample('b')], sample(['c', 'd'])]}) == [
        *'abcd'
    ]
    assert picture_names([torch.ones(2), {'inputs': 'x'}]) == []
