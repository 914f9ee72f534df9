"""The loss on the validation set: the right number, in both libraries, that changes nothing but when training stops."""

import json
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner

from mmvim.engine.hooks.val_loss import ValLossHook, loss_pipeline

UNPADDED = 'model = dict(data_preprocessor=dict(size=None, size_divisor=1))\n'
HOOK = "custom_hooks = [dict(type='mmvim.ValLossHook'{})]\n"


def written(folder, name, base, text):
    path = folder / f'{name}_{folder.name}.py'
    # MMEngine keeps visualizers, and where they write, by their names.
    path.write_text(f"_base_ = './{base.name}'\nvisualizer = dict(name={path.stem!r})\n{text}")
    return path


def logged(work) -> list[dict]:
    [scalars] = work.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [row for row in rows if 'val_loss' in row]


def by_hand(config, checkpoint, pipeline) -> dict[str, float]:
    """The losses of a checkpoint on the validation set, picture by picture."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=False)['state_dict'])
    settings = cfg.val_dataloader.dataset
    settings.pipeline = pipeline
    dataset, found = DATASETS.build(settings), []
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for index in range(len(dataset)):
        item = dataset[index]
        data = model.data_preprocessor({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}, True)
        with torch.no_grad():
            found.append(model.parse_losses(model(**data, mode='loss'))[1])
    return {key: float(np.mean([float(losses[key]) for losses in found])) for key in found[0]}


@pytest.mark.slow
def test_of_a_segmentor(train, seg, tmp_path):
    config = written(tmp_path, 'seg_loss', seg, HOOK.format('') + UNPADDED)
    train.main([str(config), '--work-dir', str(tmp_path / 'work')])
    rows = logged(tmp_path / 'work')
    assert [row['step'] for row in rows] == [2, 4] and 'mIoU' in rows[0] and 'loss' not in rows[0]
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'LoadAnnotations', 'reduce_zero_label': True},
        {'type': 'Resize', 'scale': (64, 64), 'keep_ratio': True},
        {'type': 'PackSegInputs'},
    ]
    for row in rows:
        exact = by_hand(config, tmp_path / 'work' / f'iter_{row["step"]}.pth', pipeline)
        assert row['val_loss'] == pytest.approx(exact['loss'], rel=1e-4)
        assert row['val_decode.loss_ce'] == pytest.approx(exact['decode.loss_ce'], rel=1e-4)
        assert 'val_decode.acc_seg' not in row


@pytest.mark.full
def test_training_is_what_it_is_without_it(train, seg, tmp_path):
    """To the bit: crops, dropout and stochastic depth draw the same numbers."""
    config = written(tmp_path, 'seg_loss', seg, HOOK.format('') + UNPADDED)
    train.main([str(config), '--work-dir', str(tmp_path / 'work')])
    seed = torch.load(tmp_path / 'work' / 'iter_4.pth', weights_only=False)['meta']['seed']
    plain = written(tmp_path, 'seg_plain', seg, f'randomness = dict(seed={seed})\n{UNPADDED}')
    train.main([str(plain), '--work-dir', str(tmp_path / 'plain')])
    with_, without = (
        torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)['state_dict'] for name in ('work', 'plain')
    )
    assert all(torch.equal(value, without[key]) for key, value in with_.items())


@pytest.mark.slow
def test_of_a_detector(train, det, tmp_path):
    """Boxes and masks at the size of the picture, which validation enlarges, though its pipeline loads none."""
    bigger = {'type': 'Resize', 'scale': (96, 96), 'keep_ratio': True}
    stock = [
        {'type': 'LoadImageFromFile'},
        bigger,
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')},
    ]
    text = HOOK.format('') + f'val_dataloader = dict(dataset=dict(pipeline={stock!r}))\n'
    config = written(tmp_path, 'det_loss', det, text)
    train.main([str(config), '--work-dir', str(tmp_path / 'work')])
    [row] = logged(tmp_path / 'work')
    right = [stock[0], {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}, bigger, stock[3]]
    exact = by_hand(config, tmp_path / 'work' / 'epoch_1.pth', right)
    assert row['val_loss'] == pytest.approx(exact['loss'], rel=1e-3)
    for key in ('loss_mask', 'loss_bbox', 'loss_rpn_cls'):
        assert row[f'val_{key}'] == pytest.approx(exact[key], rel=1e-3, abs=1e-6)
    wrong = by_hand(config, tmp_path / 'work' / 'epoch_1.pth', [stock[0], bigger, right[1], stock[3]])
    assert row['val_loss'] != pytest.approx(wrong['loss'], rel=1e-3), 'the control: boxes of another size'


@pytest.mark.slow
def test_training_stops(train, seg, tmp_path):
    """Without learning the loss stays, so that after two validations more it is over, by this hook or MMEngine's."""
    still = (
        'optim_wrapper = dict(optimizer=dict(lr=0.0))\nparam_scheduler = []\n'
        'train_cfg = dict(max_iters=9, val_interval=1)\n'
        'model = dict(backbone=dict(drop_path_rate=0.0), decode_head=dict(norm_cfg=dict(type="GN", num_groups=2)))\n'
        'default_hooks = dict(checkpoint=dict(interval=1, save_best="val_loss", rule="less"))\n'
    )
    config = written(tmp_path, 'stops', seg, still + HOOK.format(', patience=2'))
    train.main([str(config), '--work-dir', str(tmp_path / 'work')])
    assert [row['step'] for row in logged(tmp_path / 'work')] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / 'work').glob('*.pth')) == [
        'best_val_loss_iter_1.pth', 'iter_1.pth', 'iter_2.pth', 'iter_3.pth'
    ]  # fmt: skip
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert 'training stops' in log.read_text()
    saved = torch.load(tmp_path / 'work' / 'iter_3.pth', weights_only=False)['val_loss']
    assert saved['waited'] == 1 and 0 < saved['best'] < 10, 'as it was when the file was written, before the third'

    theirs = "dict(type='EarlyStoppingHook', monitor='val_loss', rule='less', patience=2, min_delta=1e-3)"
    both = f"custom_hooks = [dict(type='mmvim.ValLossHook'), {theirs}]\n"
    mmengines = written(tmp_path, 'mmengines', seg, still + both)
    train.main([str(mmengines), '--work-dir', str(tmp_path / 'other')])
    assert [row['step'] for row in logged(tmp_path / 'other')] == [1, 2, 3]


class FakeRunner:
    """What the hook asks of a runner."""

    _resume = True

    def __init__(self):
        self._train_loop = self.train_loop = type('Loop', (), {'stop_training': False})()
        self.logger = type('Logger', (), {'info': lambda self, text: None})()


def stops_after(losses, **options) -> int | None:
    hook, runner = ValLossHook(**options), FakeRunner()
    for number, loss in enumerate(losses, 1):
        hook._judge(runner, loss)
        if runner.train_loop.stop_training:
            return number
    return None


@pytest.mark.parametrize(
    ('losses', 'options', 'stop'),
    [
        ([3, 2, 1, 0.5], {'patience': 1}, None),
        ([3, 3], {'patience': 1}, 2),
        ([3, 2, 2.5, 2.1, 1], {'patience': 3}, None),
        ([3, 2, 2.5, 2.1, 2], {'patience': 3}, 5),
        ([3, 2.95, 2.9, 2.5], {'patience': 2, 'min_delta': 0.2}, 3),
        ([3, float('nan'), float('inf')], {'patience': 2}, 3),
        ([float('nan'), 3, 2], {'patience': 2}, None),
    ],
)
def test_when_it_stops(losses, options, stop):
    assert stops_after(losses, **options) == stop


def test_what_a_checkpoint_keeps():
    hook, runner, checkpoint = ValLossHook(patience=3), FakeRunner(), {}
    for loss in (2.0, 2.5, 2.5):
        hook._judge(runner, loss)
    hook.before_save_checkpoint(runner, checkpoint)
    resumed = ValLossHook(patience=3)
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed._judge(runner, 2.2)
    assert runner.train_loop.stop_training and resumed.best == 2.0
    fresh, runner._resume = ValLossHook(patience=3), False
    fresh.after_load_checkpoint(runner, checkpoint)
    assert fresh.waited == 0, 'a training that only starts from weights begins anew'


def test_pipelines():
    image, resize, pack = {'type': 'mmvim.LoadImageBands'}, {'type': 'Resize'}, {'type': 'PackSegInputs'}
    labels, better = {'type': 'LoadAnnotations'}, {'type': 'LoadPanopticAnnotations', 'with_mask': True}
    assert loss_pipeline([image, resize, labels, pack], [image, better]) == [image, better, resize, pack]
    assert loss_pipeline([image, resize, pack], [image, better, resize]) == [image, better, resize, pack]
    assert loss_pipeline([image, resize, labels, pack], []) == [image, labels, resize, pack]
    assert loss_pipeline([image, resize, pack], []) == [image, resize, pack], 'of a classifier'
    found = loss_pipeline([image, labels], [])
    found[0]['type'] = 'changed'
    assert image['type'] == 'mmvim.LoadImageBands'


@pytest.mark.parametrize(
    ('options', 'text'),
    [({'patience': 0}, 'patience must be'), ({'patience': 1.5}, 'patience must be'), ({'min_delta': -1}, 'min_delta')],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        ValLossHook(**options)


def test_without_a_validation(seg, tmp_path):
    cfg = Config.fromfile(seg)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    cfg.update(work_dir=str(tmp_path / 'work'), custom_hooks=[{'type': 'mmvim.ValLossHook'}], launcher='none')
    with pytest.raises(ValueError, match='ValLossHook needs a validation'):
        Runner.from_cfg(cfg).train()
