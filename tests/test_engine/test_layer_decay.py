"""Learning-rate scales that the constructor gives to each parameter, by its depth in the backbone."""

import pytest
import torch
from checkout import need
from families import FAMILY_CASES, each
from layer_decay_models import LR, MAMBA_VISION, Backbone, Segmentor, build, settings
from mmengine.config import Config
from mmengine.optim import LinearLR
from mmengine.registry import DefaultScope
from torch import nn

from mmvim.registry import MODELS


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


def test_an_adapter_learns_at_the_full_rate():
    """And the backbone inside as without it; of its own vectors none decays but those that mark the levels."""
    plain = {'type': 'mmvim.VRWKV', 'arch': {'embed_dims': 8, 'depth': 4}, 'img_size': 32}
    model = nn.Module()
    model.backbone = MODELS.build({'type': 'mmvim.ViTAdapter', 'backbone': plain, 'num_heads': 2, 'conv_dims': 4})
    model.decode_head = nn.Linear(8, 8)
    found = settings(model, layer_decay_rate=0.5)
    assert len(found) == len(list(model.parameters()))
    for name, (scale, decay) in found.items():
        inner = name.removeprefix('backbone.plain.')
        depth = 0 if inner.startswith(('patch_embed.', 'pos_embed')) else 5
        if inner.startswith('layers.'):
            depth = int(inner.split('.')[1]) + 1
        assert scale == pytest.approx(0.5 ** (5 - depth)), name
        if '.plain.' not in name and (name.endswith(('bias', 'gamma')) or 'norm' in name):
            assert decay == 0, name
    assert found['backbone.level_embed'][1] > 0 and found['backbone.up.weight'][1] > 0


def test_embeddings_scope_leaves_blocks_at_full_rate():
    for name, (scale, _) in settings(Segmentor(), layer_decay_rate=0.5, layer_decay_scope='embeddings').items():
        embedding = name.startswith(('backbone.patch_embed', 'backbone.pos_embed'))
        assert scale == pytest.approx(1 / 8 if embedding else 1), name


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


@pytest.mark.parametrize(('family', 'variant'), each('variants'))
def test_backbones_of_mmvim(family, variant):
    backbone = FAMILY_CASES[family].build(variant)
    blocks, states = FAMILY_CASES[family].blocks(backbone), FAMILY_CASES[family].undecayed
    got = settings(Segmentor(backbone), layer_decay_rate=0.5)
    deepest = len(blocks) + 1
    for depth, block in enumerate(blocks, start=1):
        ids = {id(p) for p in block.parameters()}
        names = [n for n, p in backbone.named_parameters() if id(p) in ids]
        assert names
        for name in names:
            assert got[f'backbone.{name}'][0] == pytest.approx(0.5 ** (deepest - depth)), name
    kinds = (nn.LayerNorm, nn.BatchNorm2d)
    norms = {f'backbone.{name}' for name, module in backbone.named_modules() if isinstance(module, kinds)}
    for name, (scale, wd) in got.items():
        owner, _, leaf = name.rpartition('.')
        if name.startswith(('backbone.patch_embed.', 'backbone.pos_embed', 'backbone.cls_token')):
            assert scale == pytest.approx(0.5**deepest), name
        must_not_decay = (
            'norm' in name
            or owner in norms  # those of a sequence have numbers for names
            or leaf in (*states, 'pos_embed', 'cls_token')
            or leaf.endswith('bias')
            or leaf.startswith('gamma')
        )
        if must_not_decay:
            assert wd == 0, name
        elif name.startswith('backbone.layers.') or '.mixer.' in name:
            assert wd == 1, name
    assert states <= {name.rpartition('.')[2] for name in got}


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
        need(scope)
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
