"""What would end a run at its first iteration is told before it: shapes pass through the model as in training."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmvim.cli import UserError
from mmvim.cli.first_step import check_first_step, picture_size, warn_of_batch


class Pooling(nn.Module):
    """A head whose batch norm stands after pooling to 1 x 1, as UperNet's does."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv, self.pool, self.norm = nn.Conv2d(channels, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)

    def forward(self, maps):
        return self.norm(self.pool(self.conv(maps[-1])))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        return (self.conv(x),)


class Segmentor(nn.Module):
    def __init__(self, head, neck=None):
        super().__init__()
        self.backbone, self.decode_head = Backbone(), head
        if neck is not None:
            self.neck = neck


class Maps(nn.Module):
    """A neck of one layer for each map."""

    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(count))

    def forward(self, maps):
        assert len(maps) == len(self.layers)
        return [layer(x) for layer, x in zip(self.layers, maps, strict=True)]


def config(batch=2, **more):
    return Config({'train_dataloader': {'batch_size': batch}, 'model': {}, **more})


def step(model, batch):
    """The same for real."""
    x = model.backbone(torch.zeros(batch, 3, 32, 32))
    return model.decode_head(model.neck(x) if hasattr(model, 'neck') else x)


def test_one_picture_before_a_batch_norm_of_one_value():
    model = Segmentor(Pooling())
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        check_first_step(config(1), model)
    assert str(error.value) == (
        'train_dataloader.batch_size=1 gives the batch norm decode_head.norm one value a channel, and training needs '
        'two; pass --cfg-options train_dataloader.batch_size=2 or more, with --auto-scale-lr'
    )
    check_first_step(config(2), model)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items()), 'statistics have moved'
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        step(model, 1)
    step(model, 2)


def test_a_norm_that_does_not_train_needs_one():
    model = Segmentor(Pooling())
    model.decode_head.norm.eval()
    check_first_step(config(1), model)
    step(model, 1)


@pytest.mark.parametrize(('kind', 'enough'), [('SyncBN', True), ('BN', False)])
def test_processes_share_the_batch_of_synchronised_norms(kind, enough, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    cfg = config(1, launcher='pytorch', model={'decode_head': {'norm_cfg': {'type': kind}}})
    if enough:
        check_first_step(cfg, Segmentor(Pooling()))
        return
    with pytest.raises(UserError, match='one value a channel'):
        check_first_step(cfg, Segmentor(Pooling()))


@pytest.mark.parametrize(
    ('model', 'words'),
    [
        (Segmentor(Pooling(16)), r'^decode_head cannot take .*correct model\.decode_head \(in_channels, in_index\)'),
        (Segmentor(Pooling(), Maps(2)), '^neck cannot take what it is given in the first iteration: AssertionError'),
        (Segmentor(nn.ModuleList([Pooling(), Pooling(4)]), Maps(1)), r'^decode_head\.1 cannot take'),
    ],
    ids=['channels', 'count', 'second of two'],
)
def test_parts_that_do_not_fit_together(model, words):
    with pytest.raises(UserError, match=words):
        check_first_step(config(), model)


@pytest.mark.parametrize('head', [lambda maps, samples: maps, lambda maps: maps[0].sum().item(), lambda maps: 1 / 0])
def test_what_cannot_be_told_from_shapes_is_left_to_the_run(head):
    class Head(nn.Module):
        def forward(self, *inputs):
            return head(*inputs)

    check_first_step(config(), Segmentor(Head()))


class SingleStageDetector(Segmentor):
    """A namesake of MMDetection's, by whose name its kind is known."""

    def __init__(self, head):
        super().__init__(nn.Identity())
        self.bbox_head = head


class Transformer(Segmentor):
    """A detector whose box head takes what a decoder returns."""

    def __init__(self, head):
        super().__init__(nn.Identity())
        self.bbox_head = head


def test_box_heads_take_maps_in_one_stage_detectors_alone():
    with pytest.raises(UserError, match=r'^bbox_head cannot take'):
        check_first_step(config(), SingleStageDetector(Pooling(16)))
    check_first_step(config(), Transformer(Pooling(16)))


def test_without_a_backbone_or_a_batch_nothing_is_checked():
    check_first_step(config(1), nn.Linear(2, 2))
    check_first_step(Config({'model': {}}), Segmentor(Pooling()))


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        ({'model': {'data_preprocessor': {'size': (160, 320)}}}, (160, 320)),
        ({'model': {}, 'train_dataloader': {'dataset': {'pipeline': [{'type': 'RandomCrop', 'crop_size': (96, 64)}]}}},
         (96, 64)),
        ({'model': {}, 'data_preprocessor': {'size': None}}, (512, 512)),
    ],
)  # fmt: skip
def test_size_of_pictures(settings, expected):
    assert picture_size(Config(settings)) == expected


def test_the_batch_that_the_learning_rate_is_meant_for(capfd, monkeypatch):
    scaling = {'base_batch_size': 16, 'enable': False}
    warn_of_batch(config(1, auto_scale_lr=scaling))
    assert capfd.readouterr().err == (
        'warning: 1 picture an iteration, and the learning rate is meant for 16: --auto-scale-lr fits it to them\n'
    )
    monkeypatch.setenv('WORLD_SIZE', '4')
    for cfg in (
        config(16, auto_scale_lr=scaling),
        config(2, auto_scale_lr={**scaling, 'enable': True}),
        config(2, launcher='pytorch', auto_scale_lr=scaling, optim_wrapper={'accumulative_counts': 2}),
        config(2),
    ):
        warn_of_batch(cfg)
    assert capfd.readouterr().err == ''
