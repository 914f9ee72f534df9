"""What a training logs and draws of itself: throughput, memory, states, a learning curve."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_runs
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from PIL import Image
from torch import nn

from mmvim.engine.hooks import LearningCurveHook, RunMonitorHook
from mmvim.ops import selective_scan

KEYS = ('pictures_per_s', 'memory', 'state_max')


class Scanner(BaseModel):
    """A scan without decay: with inputs of 2 its state after four steps is 8, or -8."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        u = 2 * torch.ones(len(inputs), 3, 4) + 0 * self.scale
        ones = torch.ones(len(inputs), 2, 4)
        out = selective_scan(u, torch.ones_like(u), torch.zeros(3, 2), -ones, ones)
        return {'loss': out.mean() + 100 + self.scale} if mode == 'loss' else out


def logged(run):
    lines = Path(run.log_dir, 'vis_data/scalars.json').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_log_has_throughput_memory_and_the_largest_state(tmp_path):
    visualizer = {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}], 'name': str(tmp_path)}
    run = small_runs.runner(tmp_path, [RunMonitorHook(interval=2)], model=Scanner(), visualizer=visualizer)
    run.train()
    lines = logged(run)
    assert [line['step'] for line in lines] == list(range(1, 9))
    assert not set(KEYS) & set(lines[0])
    for line in lines[1:]:
        assert line['state_max'] == 8 and line['pictures_per_s'] > 0
        assert torch.cuda.is_available() or 50 < line['memory'] < 1e6


def test_throughput_leaves_validations_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr('mmvim.engine.hooks.run_monitor.time.monotonic', lambda: now[0])
    values = {}
    hub = SimpleNamespace(update_scalar=values.__setitem__)
    runner = SimpleNamespace(hooks=[], message_hub=hub, iter=0)
    hook = RunMonitorHook(interval=3, states=False)
    hook.before_train(runner)
    for iteration in range(3):
        runner.iter = iteration
        hook.before_train_iter(runner, iteration)
        now[0] += 2
        hook.after_train_iter(runner, iteration, {'inputs': [None] * 4})
        hook.before_val(runner)
        now[0] += 100
        hook.after_val(runner)
    assert values['train/pictures_per_s'] == pytest.approx(12 / 6)
    with pytest.raises(ValueError, match='interval must be 1 or more, got 0'):
        RunMonitorHook(interval=0)


def test_a_model_without_scans_has_no_state(tmp_path):
    run = small_runs.runner(tmp_path, [RunMonitorHook(interval=1)], iterations=2)
    run.train()
    names = set(run.message_hub.log_scalars)
    assert 'train/pictures_per_s' in names and 'train/state_max' not in names


def test_watching_changes_no_weight(tmp_path):
    plain = small_runs.runner(tmp_path / 'plain', iterations=4)
    plain.train()
    seen = small_runs.runner(tmp_path / 'seen', [RunMonitorHook(1), LearningCurveHook()], iterations=4)
    seen.train()
    others = small_runs.weights(seen)
    assert all(torch.equal(value, others[name]) for name, value in small_runs.weights(plain).items())


def curve_of(path):
    """The pixels of a figure that are of the colour of its first curve."""
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)
    blue = np.abs(picture - (42, 111, 176)).sum(-1) < 30
    return picture.shape, np.argwhere(blue)


class Scores(Hook):
    """Stands for a validation: hands scores to the other hooks."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx % 4 == 3:
            metrics = {'coco/bbox_mAP': 0.01 * batch_idx, 'coco/segm_mAP': 0.5, 'val_loss': 2.0, 'coco/bbox_mAP_s': 0.1}
            for hook in runner.hooks:
                if isinstance(hook, LearningCurveHook):
                    hook.after_val_epoch(runner, metrics)


def test_a_run_ends_with_a_picture_of_it(tmp_path):
    hook = LearningCurveHook()
    run = small_runs.runner(tmp_path, [hook, Scores()], iterations=8)
    run.train()
    shape, points = curve_of(tmp_path / 'learning_curve.png')
    assert shape[:2] == (360, 960) and len(points) > 100
    losses = run.message_hub.log_scalars['train/loss'].data[0]
    assert [step for step, _ in hook._losses] == list(range(1, 9))
    assert [value for _, value in hook._losses] == pytest.approx(losses.tolist())
    scores, label = hook._scores()
    assert label == 'mAP (%)' and set(scores) == {'bbox_mAP', 'segm_mAP'}
    assert scores['bbox_mAP'].values == pytest.approx([3.0, 7.0])


def test_a_resumed_run_draws_all_of_it(tmp_path):
    first = LearningCurveHook()
    saved = {'type': 'CheckpointHook', 'interval': 4, 'by_epoch': False}
    small_runs.runner(tmp_path, [first], iterations=4, checkpoint=saved).train()
    second = LearningCurveHook()
    run = small_runs.runner(
        tmp_path, [second], iterations=8, checkpoint=saved, name='resumed', resume=True,
        load_from=str(tmp_path / 'iter_4.pth'),
    )  # fmt: skip
    run.train()
    assert [step for step, _ in second._losses] == list(range(1, 9))
    assert second._losses[:4] == first._losses


def test_long_runs_are_thinned_out_and_bad_numbers_left_out(tmp_path):
    hook = LearningCurveHook()
    loss = SimpleNamespace(current=lambda: float(runner.iter % 2))
    hub = SimpleNamespace(log_scalars={'train/loss': loss})
    runner = SimpleNamespace(max_iters=1600, iter=0, message_hub=hub)
    hook.before_train(runner)
    for runner.iter in range(1600):
        hook.after_train_iter(runner, runner.iter)
    assert len(hook._losses) == 400 and {value for _, value in hook._losses} == {0.5}
    hook._losses[3] = (16, float('nan'))
    runner.work_dir, runner.experiment_name = str(tmp_path), 'thin'
    hook._draw(runner)
    assert len(curve_of(tmp_path / 'learning_curve.png')[1]) > 100
    with pytest.raises(ValueError, match=r"filename='a/b.png' must be the name of a .png file"):
        LearningCurveHook('a/b.png')
