"""Learning-rate scales and weight decays that the constructor gives to each parameter."""

import copy
import logging
from contextlib import contextmanager

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import LinearLR, build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmvim.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmvim.registry import MODELS

LR, WD = 1e-3, 0.1
CONSTRUCTOR = 'mmvim.LearningRateDecayOptimWrapperConstructor'
VIM = {
    'type': 'mmvim.Vim',
    'arch': {'embed_dims': 8, 'depth': 3, 'd_state': 2},
    'img_size': 32,
    'cls_token': 'middle',
    'final_norm': True,
}
MAMBA_VISION = {
    'type': 'mmvim.MambaVision',
    'arch': {'depths': (1, 1, 2, 2), 'dim': 4, 'in_dim': 4, 'num_heads': (1, 1, 2, 2), 'layer_scale': 1e-5},
    'window_sizes': (8, 8, 8, 8),
}


class Scale(nn.Module):
    """A layer scale: one-dimensional, and neither norm nor bias."""

    def __init__(self, dims):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dims))


class CustomRMSNorm(nn.Module):
    """A norm that torch knows nothing of."""

    def __init__(self, dims):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dims))


class Block(nn.Module):
    def __init__(self, dims=4):
        super().__init__()
        self.norm = CustomRMSNorm(dims)
        self.proj = nn.Linear(dims, dims)
        self.A_log = nn.Parameter(torch.zeros(dims, 2))
        self.D = nn.Parameter(torch.ones(dims))
        self.ls = Scale(dims)
        self.table = nn.Parameter(torch.zeros(dims, 2))
        self.table._no_weight_decay = True


class Backbone(nn.Module):
    """Two blocks; depths 0 (embedding) to 3 (final norm)."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 4))
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm_f = nn.LayerNorm(4)

    def get_layer_depth(self, param_name, prefix=''):
        name = param_name[len(prefix) :]
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, 4
        return (3 if name.startswith('norm_f') else 0), 4


class Segmentor(nn.Module):
    def __init__(self, backbone=None):
        super().__init__()
        self.backbone = backbone or Backbone()
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


def build(model, **paramwise_cfg):
    """Build through MMEngine's own builder, as the runner does."""
    return build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': WD},
            'constructor': CONSTRUCTOR,
            'paramwise_cfg': paramwise_cfg,
        },
    )


def settings(model, **paramwise_cfg):
    """Map each parameter's name to (lr / LR, weight_decay / WD), from what the optimizer holds."""
    groups = build(model, **paramwise_cfg).optimizer.param_groups
    of = {id(p): (g['lr'] / LR, g['weight_decay'] / WD) for g in groups for p in g['params']}
    assert sum(len(g['params']) for g in groups) == len(of), 'a parameter is in two groups'
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


@contextmanager
def capture_log(messages):
    """Collect what goes through MMEngine's current logger."""
    handler, logger = logging.Handler(), MMLogger.get_current_instance()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def test_scale_of_every_layer():
    scales = {name: lr for name, (lr, _) in settings(Segmentor(), layer_decay_rate=0.5).items()}
    expected = {
        'backbone.patch_embed': 1 / 8,
        'backbone.pos_embed': 1 / 8,
        'backbone.layers.0': 1 / 4,
        'backbone.layers.1': 1 / 2,
        'backbone.norm_f': 1,
        'head': 1,
    }
    for name, scale in scales.items():
        (prefix,) = [p for p in expected if name.startswith(p)]
        assert scale == pytest.approx(expected[prefix]), name
    assert len(scales) == len(list(Segmentor().parameters()))


def test_embeddings_scope_leaves_blocks_at_full_rate():
    for name, (scale, _) in settings(Segmentor(), layer_decay_rate=0.5, layer_decay_scope='embeddings').items():
        embedding = name.startswith(('backbone.patch_embed', 'backbone.pos_embed'))
        assert scale == pytest.approx(1 / 8 if embedding else 1), name


@pytest.mark.parametrize('paramwise_cfg', [None, {}])
def test_no_weight_decay_where_it_hurts_by_default(paramwise_cfg):
    model = Segmentor()
    wrapper = LearningRateDecayOptimWrapperConstructor(
        {'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': WD}}, paramwise_cfg
    )(model)
    decayed = {id(p) for g in wrapper.optimizer.param_groups if g['weight_decay'] > 0 for p in g['params']}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {
        'backbone.patch_embed.weight',
        'backbone.layers.0.proj.weight',
        'backbone.layers.1.proj.weight',
        'head.0.weight',
    }
    assert all(g['lr'] == LR for g in wrapper.optimizer.param_groups)


@pytest.mark.parametrize(
    ('mult', 'names'),
    [
        ('norm_decay_mult', ['layers.0.norm.weight', 'layers.1.norm.weight', 'norm_f.weight', 'norm_f.bias']),
        ('bias_decay_mult', ['patch_embed.bias', 'layers.0.proj.bias', 'layers.1.proj.bias']),
        ('flat_decay_mult', ['layers.0.ls.gamma', 'layers.1.ls.gamma']),
    ],
)
def test_each_mult_reaches_its_own_parameters(mult, names):
    changed = {name for name, (_, wd) in settings(Backbone(), **{mult: 0.25}).items() if wd == pytest.approx(0.25)}
    assert changed == set(names)


@pytest.mark.parametrize(
    'norm',
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        CustomRMSNorm(4),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_of_any_kind(norm):
    model = nn.ModuleDict({'proj': nn.Linear(4, 4), 'layer': norm})
    for name, (_, wd) in settings(model, norm_decay_mult=0.5, flat_decay_mult=1.0, bias_decay_mult=1.0).items():
        assert wd == (0.5 if name.startswith('layer.') else 1.0), name


@pytest.mark.parametrize('name', ['RMSNorm', 'LN2d'])
def test_norms_of_mmvim(name):
    model = nn.ModuleDict({'proj': nn.Linear(4, 4), 'layer': MODELS.get(name)(4)})
    assert settings(model, flat_decay_mult=1.0)['layer.weight'] == (1.0, 0.0)


def test_custom_keys():
    got = settings(
        Segmentor(),
        layer_decay_rate=0.5,
        custom_keys={
            'head': {'lr_mult': 10.0},
            'layers.0': {'lr_mult': 2.0},
            'layers.0.A_log': {'decay_mult': 1.0},
        },
    )
    assert got['head.0.weight'] == (pytest.approx(10), 1.0)
    assert got['head.1.weight'] == (pytest.approx(10), 0.0), 'a key without decay_mult must leave the rules in force'
    assert got['backbone.layers.0.proj.weight'] == (pytest.approx(0.5), 1.0), 'lr_mult multiplies the layer scale'
    assert got['backbone.layers.0.A_log'] == (pytest.approx(0.25), 1.0), 'the longest key decides alone'
    assert got['backbone.layers.1.A_log'] == (pytest.approx(0.5), 0.0)


def test_custom_key_that_matches_nothing_is_reported():
    messages = []
    with capture_log(messages):
        build(Segmentor(), custom_keys={'absolute_pos': {'decay_mult': 0.0}, 'head': {'lr_mult': 2.0}})
    assert any('absolute_pos' in m for m in messages)
    assert not any("'head'" in m for m in messages)


def test_alias():
    assert settings(Segmentor(), decay_rate=0.5) == settings(Segmentor(), layer_decay_rate=0.5)


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    'wrap',
    [Wrapped, nn.DataParallel, lambda m: Wrapped(Wrapped(m)), torch.compile],
    ids=['wrapper', 'DataParallel', 'twice', 'compile'],
)
def test_wrapped_model(wrap):
    model = Segmentor()
    plain = settings(model, layer_decay_rate=0.5)
    groups = build(wrap(model), layer_decay_rate=0.5).optimizer.param_groups
    of = {id(p): g['lr'] / LR for g in groups for p in g['params']}
    assert {name: of[id(p)] for name, p in model.named_parameters()} == {n: lr for n, (lr, _) in plain.items()}


def test_bare_backbone():
    bare, inside = settings(Backbone(), layer_decay_rate=0.5), settings(Segmentor(), layer_decay_rate=0.5)
    assert bare == {n.removeprefix('backbone.'): s for n, s in inside.items() if n.startswith('backbone.')}


def test_backbone_deeper_in_the_model():
    model = nn.Module()
    model.student = Segmentor()
    got = settings(model, layer_decay_rate=0.5)
    assert got['student.backbone.patch_embed.weight'][0] == pytest.approx(1 / 8)
    assert got['student.head.0.weight'][0] == 1


def test_frozen_parameters_are_left_out():
    model = Segmentor()
    model.backbone.patch_embed.requires_grad_(False)
    messages = []
    with capture_log(messages):
        got = settings(model, layer_decay_rate=0.5)
    assert not any(name.startswith('backbone.patch_embed') for name in got)
    assert any('2 frozen' in m for m in messages)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match='no trainable parameter'):
        build(model)


def test_shared_parameter_is_counted_once():
    model = Segmentor()
    model.head[0].weight = nn.Parameter(torch.zeros(4, 4))
    model.head.add_module('tied', nn.Linear(4, 4))
    model.head.tied.weight = model.backbone.layers[0].proj.weight
    groups = build(model, layer_decay_rate=0.5).optimizer.param_groups
    held = [p for g in groups for p in g['params']]
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
    (tied,) = [g for g in groups if any(p is model.head.tied.weight for p in g['params'])]
    assert tied['lr'] == pytest.approx(LR / 4)


def test_table_has_one_line_for_each_group():
    messages, model = [], Segmentor()
    with capture_log(messages):
        wrapper = build(model, layer_decay_rate=0.5)
    (table,) = [m for m in messages if 'parameter groups' in m]
    groups = wrapper.optimizer.param_groups
    lines = table.splitlines()
    assert len(lines) == 2 + len(groups)
    assert lines[0].startswith(f'Optimizer: {len(groups)} parameter groups')
    for line, group in zip(lines[2:], groups, strict=True):
        scale, lr, weight_decay, tensors, elements = line.replace(',', '').split()
        assert float(scale) == pytest.approx(group['lr_scale'], rel=1e-3)
        assert float(lr) == pytest.approx(group['lr'], rel=1e-2)
        assert float(weight_decay) == pytest.approx(group['weight_decay'])
        assert (int(tensors), int(elements)) == (len(group['params']), sum(p.numel() for p in group['params']))


@pytest.mark.parametrize(
    ('paramwise_cfg', 'error', 'words'),
    [
        ({'num_layers': 24}, ValueError, 'num_layers'),
        ({'layer_decay_rate': 0}, ValueError, r'layer_decay_rate.*\(0, 1\]'),
        ({'layer_decay_rate': 1.1}, ValueError, r'layer_decay_rate.*1\.1'),
        ({'layer_decay_rate': '0.9'}, ValueError, 'layer_decay_rate'),
        ({'layer_decay_rate': float('nan')}, ValueError, 'layer_decay_rate'),
        ({'layer_decay_rate': 0.9, 'decay_rate': 0.9}, ValueError, 'alias'),
        ({'layer_decay_scope': 'blocks'}, ValueError, 'embeddings'),
        ({'norm_decay_mult': -1}, ValueError, 'norm_decay_mult'),
        ({'bias_decay_mult': None}, ValueError, 'bias_decay_mult'),
        ({'custom_keys': ['head']}, TypeError, 'custom_keys'),
        ({'custom_keys': {'head': 0.1}}, TypeError, 'head'),
        ({'custom_keys': {'head': {'lr': 0.1}}}, ValueError, "'lr'"),
        ({'custom_keys': {'head': {'lr_mult': -0.1}}}, ValueError, 'lr_mult'),
    ],
)
def test_bad_paramwise_cfg(paramwise_cfg, error, words):
    with pytest.raises(error, match=words):
        build(Segmentor(), **paramwise_cfg)


def test_paramwise_cfg_is_not_changed():
    cfg = {'decay_rate': 0.5, 'custom_keys': {'head': {'lr_mult': 2.0}}}
    before = copy.deepcopy(cfg)
    LearningRateDecayOptimWrapperConstructor({'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': WD}}, cfg)
    assert cfg == before
    with pytest.raises(TypeError, match='paramwise_cfg must be a dict'):
        LearningRateDecayOptimWrapperConstructor({'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': WD}}, [])


@pytest.mark.parametrize('missing', ['lr', 'weight_decay'])
def test_lr_and_weight_decay_must_be_stated(missing):
    optimizer = {'type': 'AdamW', 'lr': LR, 'weight_decay': WD}
    del optimizer[missing]
    with pytest.raises(ValueError, match=f'optimizer.{missing} is missing'):
        LearningRateDecayOptimWrapperConstructor({'optimizer': optimizer})


def test_backbone_without_depths():
    model = Segmentor(nn.Sequential(nn.Conv2d(3, 4, 1)))
    assert settings(model)['backbone.0.weight'] == (1.0, 1.0), 'the weight-decay rules need no depths'
    with pytest.raises(ValueError, match=r'Sequential.*layer_decay_rate at 1\.0'):
        build(model, layer_decay_rate=0.9)
    with pytest.raises(ValueError, match='no part of Sequential'):
        build(nn.Sequential(nn.Linear(2, 2)), layer_decay_rate=0.9)


def test_impossible_depth():
    model = Segmentor()
    model.backbone.get_layer_depth = lambda name, prefix='': (4, 4)
    with pytest.raises(ValueError, match=r'returned depth 4 of 4'):
        build(model, layer_decay_rate=0.9)


@pytest.mark.parametrize('cfg', [VIM, MAMBA_VISION], ids=lambda cfg: cfg['type'])
def test_backbones_of_mmvim(cfg):
    backbone = MODELS.build(copy.deepcopy(cfg))
    blocks = backbone.layers if cfg is VIM else [b for level in backbone.levels for b in level.blocks]
    got = settings(Segmentor(backbone), layer_decay_rate=0.5)
    deepest = len(blocks) + 1
    for depth, block in enumerate(blocks, start=1):
        ids = {id(p) for p in block.parameters()}
        names = [n for n, p in backbone.named_parameters() if id(p) in ids]
        assert names
        for name in names:
            assert got[f'backbone.{name}'][0] == pytest.approx(0.5 ** (deepest - depth)), name
    for name, (scale, wd) in got.items():
        leaf = name.rpartition('.')[2]
        if name.startswith(('backbone.patch_embed.', 'backbone.pos_embed', 'backbone.cls_token')):
            assert scale == pytest.approx(0.5**deepest), name
        must_not_decay = (
            'norm' in name
            or leaf in ('A_log', 'A_b_log', 'D', 'D_b', 'bias', 'pos_embed', 'cls_token')
            or leaf.startswith('gamma')
        )
        if must_not_decay:
            assert wd == 0, name
        elif name.startswith('backbone.layers.') or '.mixer.' in name:
            assert wd == 1, name
    assert any(name.endswith('A_log') for name in got)


def test_official_setting_of_vim():
    """What the published segmentation code of Vim computes, reached through documented options.

    Its rules, applied here literally: 1-D tensors and biases without weight decay, everything else (A_log and the
    positions too) with it; patch embedding and positions at ``rate ** 25``, everything else at the full rate.
    """
    cfg = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 8, 'depth': 24, 'd_state': 2}, 'img_size': 32}
    model = Segmentor(MODELS.build(cfg))
    got = settings(
        model,
        layer_decay_rate=0.92,
        layer_decay_scope='embeddings',
        custom_keys={key: {'decay_mult': 1.0} for key in ('A_log', 'A_b_log', 'pos_embed')},
    )
    for name, param in model.named_parameters():
        embedding = name.startswith(('backbone.patch_embed', 'backbone.pos_embed'))
        decayed = not (param.ndim == 1 or name.endswith('.bias'))
        assert got[name] == (pytest.approx(0.92**25 if embedding else 1.0), float(decayed)), name


def test_scheduler_keeps_the_scales():
    wrapper = build(Segmentor(), layer_decay_rate=0.5)
    scheduler = LinearLR(wrapper, start_factor=0.1, end=5, by_epoch=False)
    for _ in range(3):
        groups = wrapper.optimizer.param_groups
        factor = groups[-1]['lr'] / LR
        assert all(g['lr'] == pytest.approx(LR * factor * g['lr_scale']) for g in groups)
        wrapper.optimizer.step()
        scheduler.step()


@pytest.mark.parametrize('scope', ['mmengine', 'mmvim', 'mmseg', 'mmdet'])
def test_found_from_any_default_scope(scope):
    if scope in ('mmseg', 'mmdet'):
        pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        assert len(build(Segmentor(), layer_decay_rate=0.5).optimizer.param_groups) > 2


def test_mask_rcnn(tmp_path):
    pytest.importorskip('mmcv._ext', reason='Mask R-CNN needs the compiled ops of mmcv')
    pytest.importorskip('mmdet')
    (tmp_path / 'cfg.py').write_text("_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'")
    cfg = Config.fromfile(tmp_path / 'cfg.py').model
    cfg.backbone, cfg.neck.in_channels = MAMBA_VISION, [4, 8, 16, 32]
    with DefaultScope.overwrite_default_scope('mmdet'):
        got = settings(MODELS.build(cfg), layer_decay_rate=0.5)
    assert {scale for name, (scale, _) in got.items() if not name.startswith('backbone.')} == {1.0}
    assert {scale for name, (scale, _) in got.items() if name.startswith('backbone.')} == {0.5**k for k in range(8)}
