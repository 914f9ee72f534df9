"""Progress on the console, in a terminal and in a log."""

import io
import logging
from typing import ClassVar

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from rich.console import Console

from mmvim.engine.hooks import ProgressBarHook
from mmvim.engine.progress import ProgressDisplay, clock, progress_display


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


@pytest.mark.parametrize(('seconds', 'text'), [(0.2, '0:00'), (59.6, '1:00'), (194, '3:14'), (3725, '1:02:05')])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_log_gets_a_line_now_and_then():
    out = console(False)
    with ProgressDisplay(out, parts=4) as display:
        task = display.add('Training', 100)
        for done in range(1, 101):
            display.update(task, done, 'loss 1.5')
    lines = out.file.getvalue().splitlines()
    assert [line.split(',')[0] for line in lines] == [f'Training: {n}/100' for n in (25, 50, 75, 100)]
    assert 'loss 1.5' in lines[0] and lines[0].endswith('left') and not lines[-1].endswith('left')


def test_a_terminal_gets_a_bar():
    out = console(True)
    with ProgressDisplay(out) as display:
        task = display.add('Training', 4)
        display.update(task, 3, 'loss 1.5')
    text = out.file.getvalue()
    assert 'Training' in text and '3/4' in text and 'loss 1.5' in text and '━' in text


def test_nothing_is_shown_for_work_that_is_not_done():
    out = console(False)
    with progress_display('Rendering', 10, out):
        pass
    assert out.file.getvalue() == ''


@pytest.mark.parametrize('make', [lambda: ProgressDisplay(parts=0), lambda: ProgressBarHook(window=0)])
def test_bad_arguments(make):
    with pytest.raises(ValueError, match='must be 1 or greater, got 0'):
        make()


class Model(torch.nn.Module):
    """The least that a runner trains and evaluates."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def train_step(self, data, optim_wrapper):
        loss = (self.weight * data[0]).abs().sum()
        optim_wrapper.update_params(loss)
        return {'loss': loss.detach()}

    def val_step(self, data):
        return data


class Score(BaseMetric):
    """A metric that is always 42."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'mIoU': 42.0}


class Data(torch.utils.data.Dataset):
    """Three equal samples."""

    metainfo: ClassVar = {}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.ones(1)


def console_streams():
    handlers = MMLogger.get_current_instance().handlers
    return [handler.stream for handler in handlers if type(handler) is logging.StreamHandler]


@pytest.mark.parametrize('terminal', [False, True])
def test_hook_in_a_training(terminal, tmp_path):
    hook, out = ProgressBarHook(parts=2), console(terminal)
    hook.display = ProgressDisplay(out, parts=2)
    runner = Runner(
        model=Model(),
        work_dir=str(tmp_path),
        experiment_name=f'progress_{terminal}',
        custom_hooks=[hook],
        train_cfg={'by_epoch': False, 'max_iters': 4, 'val_interval': 2},
        val_cfg={},
        train_dataloader={'batch_size': 1, 'dataset': Data(), 'sampler': {'type': 'InfiniteSampler'}},
        val_dataloader={'batch_size': 1, 'dataset': Data(), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        val_evaluator=Evaluator(Score()),
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
    )
    before = console_streams()
    runner.train()
    text = out.file.getvalue()
    assert '4/4' in text and 'loss 0.' in text and 'mIoU 42.0' in text
    if not terminal:
        assert text.count('\n') == 2
    assert console_streams() == before, 'the log lost its stream'
