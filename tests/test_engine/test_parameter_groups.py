"""Weight decay, custom keys and groups that the constructor gives to each parameter, and its checks of the config."""

import copy

import pytest
import torch
from layer_decay_models import LR, WD, Backbone, CustomRMSNorm, Segmentor, build, capture_log, settings
from torch import nn

from mmvim.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmvim.registry import MODELS


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
