"""Files of segmentors and detectors with a ViT-Adapter, as their publishers write them, and of classifiers."""

import itertools
import warnings
from collections import OrderedDict

import pytest
import torch
from checkout import load_config
from family_cases.base import randomised, with_head
from family_cases.plainmamba import SMALL as SMALL_PLAINMAMBA
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mmvim import checkpoints
from mmvim.checkpoints.families import FAMILIES, AdaptedFamily, recognise
from mmvim.models import VRWKV, PlainMamba, ViTAdapter

PARTS = ('neck', 'rpn_head', 'roi_head', 'bbox_head', 'decode_head', 'auxiliary_head')
RECORDS = ('pos_embed_grid', 'fuse_last')
ARCHES = {
    'vrwkv': {'embed_dims': 16, 'depth': 4, 'layer_scale': 1.0},
    'plainmamba': {**SMALL_PLAINMAMBA, 'depth': 4},
}
TYPES = {'vrwkv': 'mmvim.VRWKV', 'plainmamba': 'mmvim.PlainMamba'}
SMALL = {'num_heads': 2, 'conv_dims': 8}
EACH = pytest.mark.parametrize('family', ARCHES)
SEGMENTOR = {
    'decode_head': {
        'type': 'mmseg.UPerHead', 'in_channels': [16] * 4, 'in_index': [0, 1, 2, 3], 'pool_scales': (1, 2, 3, 6),
        'channels': 8, 'num_classes': 7, 'norm_cfg': {'type': 'BN'},
    },
    'auxiliary_head': {
        'type': 'mmseg.FCNHead', 'in_channels': 16, 'in_index': 2, 'channels': 8, 'num_convs': 1,
        'concat_input': False, 'num_classes': 7, 'norm_cfg': {'type': 'BN'},
    },
}  # fmt: skip


def adapter(family='vrwkv', inner=None, **options):
    torch.manual_seed(0)
    return ViTAdapter({'type': TYPES[family], 'arch': ARCHES[family], **(inner or {})}, **{**SMALL, **options})


def detector(family):
    """FPN and the heads of Mask R-CNN, narrow, with batch norms where PlainMamba's have them."""
    from mmvim.checkpoints.heads import _stock_model

    pytest.importorskip('mmdet', reason='mmdet is not installed')
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    model = _stock_model('mask-rcnn')
    norm = {'type': 'BN'} if family == 'plainmamba' else None
    model.neck.update(in_channels=[16] * 4, out_channels=8, norm_cfg=norm)
    model.rpn_head.update(in_channels=8, feat_channels=16)
    roi = model.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 8
    roi.bbox_head.update(in_channels=8, fc_out_channels=24, num_classes=5)
    if family == 'plainmamba':
        roi.bbox_head.update(type='Shared4Conv1FCBBoxHead', conv_out_channels=8, norm_cfg=norm)
    roi.mask_head.update(in_channels=8, conv_out_channels=16, num_classes=5, num_convs=2)
    return {'neck': model.neck, 'rpn_head': model.rpn_head, 'roi_head': roi}


def retinanet():
    """FPN without the level of stride 4, and RetinaHead, narrow."""
    from mmvim.checkpoints.heads import _stock_model

    pytest.importorskip('mmdet', reason='mmdet is not installed')
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    model, norm = _stock_model('retinanet'), {'type': 'BN'}
    model.neck.update(in_channels=[16] * 4, out_channels=8, norm_cfg=norm, add_extra_convs='on_output')
    model.bbox_head.update(in_channels=8, feat_channels=24, num_classes=5, stacked_convs=2)
    return {'neck': model.neck, 'bbox_head': model.bbox_head}


def model_of(kind, family='vrwkv'):
    """A whole model, every weight its own number, and its config's parts."""
    heads = SEGMENTOR if kind == 'segmentor' else retinanet() if kind == 'retinanet' else detector(family)
    init_default_scope('mmseg' if kind == 'segmentor' else 'mmdet')
    parts = nn.ModuleDict({'backbone': adapter(family, fuse='groups' if kind == 'segmentor' else 'last')})
    parts.update({name: MODELS.build(dict(config)) for name, config in heads.items()})
    return randomised(parts).eval()


def published(model, family='vrwkv'):
    """A model's weights under its publisher's names, who has no records."""
    weights = OrderedDict()
    for name, value in model.state_dict().items():
        if not name.endswith(RECORDS):
            name = name.replace('backbone.plain.', 'backbone.')
            weights[name.replace('backbone.norm', 'backbone.ad_norm') if family == 'plainmamba' else name] = value
    return weights


@pytest.fixture
def save(tmp_path):
    numbers = itertools.count()  # a file that was read stays mapped

    def call(weights, **more):
        path = tmp_path / f'{next(numbers)}.pth'
        torch.save({'meta': {'epoch': 12}, 'state_dict': weights, **more}, path)
        return str(path)

    return call


def rebuild(found):
    parts = OrderedDict(backbone=MODELS.build(found.backbone))
    for name, config in (('neck', found.neck), *found.heads.items()):
        if config is not None:
            parts[name] = MODELS.build(config)
    model = revert_sync_batchnorm(nn.ModuleDict(parts))
    model.load_state_dict(found.state_dict, strict=True)
    return model.eval()


CASES = [('segmentor', 'vrwkv'), ('detector', 'vrwkv'), ('detector', 'plainmamba'), ('retinanet', 'plainmamba')]


@pytest.mark.parametrize(('kind', 'family'), CASES)
def test_whole_models(kind, family, save):
    """Every tensor is used, and the configs that are read off build the same function."""
    model = model_of(kind, family)
    weights = published(model, family)
    found = checkpoints.read(save(weights), arch=ARCHES[family])
    assert (found.family, found.kind, found.layout.adapted) == (family, kind.replace('retinanet', 'detector'), True)
    assert not (found.report.dropped or found.report.fresh or found.report.resized)
    assert len(found.report.used) == len(weights) and {*found.names.values()} == set(weights)
    assert set(found.report.assumed) == {'backbone.plain.pos_embed_grid', 'backbone.fuse_last'}
    fuse = 'groups' if kind == 'segmentor' else 'last'
    assert found.backbone == {
        'type': 'mmvim.ViTAdapter',
        'backbone': {'type': TYPES[family], 'arch': ARCHES[family], 'img_size': 224},
        'num_heads': 2,
        'num_points': 4,
        'value_ratio': 1,
        'ffn_ratio': 0.25,
        'conv_dims': 8,
        'extra_extractors': 2,
        'fuse': fuse,
        'groups': ((0, 0), (1, 1), (2, 2), (3, 3)),
    }
    again, x = rebuild(found), torch.randn(1, 3, 64, 96)
    for name, part in model.named_children():
        assert part.state_dict().keys() == again[name].state_dict().keys()
    for a, b in zip(again['backbone'](x), model['backbone'](x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(('kind', 'family'), CASES)
def test_there_and_back(kind, family, save):
    weights = published(model_of(kind, family), family)
    converted, _ = checkpoints.to_mmvim(save(weights), arch=ARCHES[family])
    back = checkpoints.from_mmvim(save(converted['state_dict'], **{k: converted[k] for k in ('meta', 'left_out')}))
    assert list(back['state_dict']) == list(weights)
    assert all(torch.equal(back['state_dict'][name], value) for name, value in weights.items())
    # Weights that mmvim trained itself, too.
    kind = kind.replace('retinanet', 'detector')
    trained = checkpoints.from_mmvim(save(converted['state_dict']), family=family, kind=kind)['state_dict']
    assert set(trained) == set(weights)


@pytest.mark.parametrize(('kind', 'family'), CASES)
def test_whole_models_by_mmengines_loader(kind, family, save):
    """``published://``, and for names that are mmvim's the file as it is."""
    model = model_of(kind, family)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    file = save(published(model, family))
    for location in [f'published://{file}', *([file] if family == 'vrwkv' else [])]:
        load_checkpoint(randomised(model, seed=1), location, strict=True)
        got = model.state_dict()
        assert all(torch.equal(got[name], value) for name, value in wanted.items() if not name.endswith(RECORDS))


@pytest.mark.parametrize(('kind', 'family'), CASES)
def test_adapter_of_a_whole_model(kind, family, save):
    """``init_cfg`` of the adapter: heads are left out, positions resized."""
    model = model_of(kind, family)
    file = save(published(model, family))
    fuse = 'groups' if kind == 'segmentor' else 'last'
    target = adapter(family, {'img_size': (48, 80)}, fuse=fuse, init_cfg={'type': 'Pretrained', 'checkpoint': file})
    target.init_weights()
    given, own = model['backbone'].state_dict(), target.state_dict()
    same = [name for name in own if not name.endswith(('pos_embed', 'pos_embed_grid'))]
    assert len(same) == len(own) - 2 and all(torch.equal(own[name], given[name]) for name in same)
    report = checkpoints.load_backbone(target, file)
    assert report.resized == {'plain.pos_embed': '14 x 14 to 3 x 5 cells'}
    assert all(name.split('.')[0] in PARTS
               for name in report.dropped)  # fmt: skip


@EACH
def test_a_file_that_mmvim_wrote(family, save):
    model = randomised(adapter(family, fuse='last'))
    weights = OrderedDict((f'backbone.{name}', value) for name, value in model.state_dict().items())
    weights['backbone.fuse_last'] = torch.tensor(1)
    weights['backbone.plain.pos_embed_grid'] = torch.tensor([14, 14])
    assert recognise(weights, 'file').adapted
    found = checkpoints.read(save(weights), arch=ARCHES[family])
    assert found.backbone['fuse'] == 'last' and set(found.report.used) == set(found.state_dict) - set(
        found.report.assumed
    )
    report = checkpoints.load_backbone(adapter(family, fuse='last'), save(weights))
    assert not (report.missing or report.dropped or report.unexpected)


@EACH
@pytest.mark.parametrize('where', ['inside', 'around'])
def test_a_classifier(family, where, save):
    """In the backbone inside, or in the adapter, whose own weights then stay as they were made."""
    kind = {'vrwkv': VRWKV, 'plainmamba': PlainMamba}[family]
    weights = with_head(kind(ARCHES[family]), 16)
    init_cfg = {'type': 'Pretrained', 'checkpoint': save(weights)}
    model = adapter(family, {'init_cfg': init_cfg}) if where == 'inside' else adapter(family, init_cfg=init_cfg)
    before = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith('plain.')}
    model.init_weights()
    own = model.state_dict()
    for name, value in own.items():
        if name.startswith('plain.') and not name.endswith(RECORDS):
            assert torch.equal(value, weights[name.removeprefix('plain.')]), name
    assert all(torch.equal(own[name], value) for name, value in before.items())
    if where == 'around':
        report = checkpoints.load_backbone(model, init_cfg['checkpoint'])
        assert set(report.fresh) == set(before) - {'fuse_last'} and 'fuse_last' not in report.assumed
        assert {'plain.ln1.weight', 'head.fc.weight'} <= set(report.dropped)


def test_a_classifier_without_scales(save):
    """As the authors' VRWKV-T; that its dense models have them is in the name of an architecture."""
    weights = with_head(VRWKV({'embed_dims': 16, 'depth': 4}), 16)
    model = adapter()
    report = checkpoints.load_backbone(model, save(weights))
    assert report.assumed['plain.layers.3.gamma2'] == '16 ones: the file has no layer scale'
    assert torch.equal(model.plain.layers[3].att.key.weight, weights['layers.3.att.key.weight'])
    file = save(published(model_of('segmentor')))
    with pytest.raises(checkpoints.CheckpointError, match='layer_scale=True, and this VRWKV has layer_scale=False'):
        checkpoints.load_backbone(adapter(inner={'arch': {'embed_dims': 16, 'depth': 4}}), file)


def test_the_wrong_fusion_is_refused(save):
    """The weights fit, and would make other outputs."""
    file = save(published(model_of('segmentor')))
    wrong = adapter(fuse='last')
    before = wrong.spm.stem[0].weight.clone()
    message = "of a segmentor whose adapter has fuse='groups', and this one has fuse='last'.*or strict=False"
    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.load_backbone(wrong, file)
    assert torch.equal(wrong.spm.stem[0].weight, before)
    report = checkpoints.load_backbone(wrong, file, strict=False)
    assert report.assumed['fuse_last'] == "fuse='last', which the file does not say"
    assert not torch.equal(wrong.spm.stem[0].weight, before) and wrong.fuse_last == 1
    file = save(wrong.state_dict())
    with pytest.raises(checkpoints.CheckpointError, match="has fuse='last', and this one has fuse='groups'"):
        checkpoints.load_backbone(adapter(), file)
    report = checkpoints.load_backbone(adapter(), file, strict=False)
    assert report.assumed['fuse_last'] == "fuse='groups', not the file's 'last'"


def test_a_wrong_fusion_in_a_whole_model_is_told(save):
    """To MMEngine's loader, if it gets the file from mmvim's reader, which knows whose it is by its heads."""
    file = save(published(model_of('segmentor')))
    model = model_of('segmentor')
    model['backbone'] = adapter(fuse='last')
    with pytest.warns(UserWarning, match="trained with fuse='groups', and this adapter has fuse='last'"):
        load_checkpoint(model, f'published://{file}', strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_checkpoint(model, save(model.state_dict()), strict=True)  # which says 'last'


def test_adapter_and_no_adapter(save):
    file = save(published(model_of('segmentor')))
    with pytest.raises(checkpoints.CheckpointError, match=r'has a ViT-Adapter around its VRWKV.*mmvim.ViTAdapter'):
        checkpoints.load_backbone(VRWKV(ARCHES['vrwkv']), file)
    with pytest.raises(checkpoints.CheckpointError, match='is a segmentor of VRWKV, and this backbone is a'):
        checkpoints.load_backbone(adapter('plainmamba'), file)
    with pytest.raises(checkpoints.CheckpointError, match=r'of another size: embed_dims=16, and this VRWKV has .*32'):
        checkpoints.load_backbone(adapter(inner={'arch': {**ARCHES['vrwkv'], 'embed_dims': 32}}), file)
    with pytest.raises(checkpoints.CheckpointError, match=r'of another shape or kind .*attention_weights'):
        checkpoints.load_backbone(adapter(num_heads=4), file)


def test_fewer_outputs(save):
    report = checkpoints.load_backbone(adapter(out_indices=(1, 2, 3)), save(published(model_of('segmentor'))))
    parts = {name.rpartition('.')[0] for name, why in report.dropped.items() if 'out_indices=(1, 2, 3)' in why}
    assert parts == {'up', 'norm1', 'spm.fc1'}


def test_an_incomplete_adapter(save):
    weights = published(model_of('segmentor'))
    del weights['backbone.interactions.2.injector.gamma']
    with pytest.raises(checkpoints.CheckpointError, match=r'lacks 1 weights \(backbone.interactions.2.injector.gamma'):
        checkpoints.read(save(weights), arch=ARCHES['vrwkv'])
    for number in (1, 2, 3):
        for name in [n for n in weights if n.startswith(f'backbone.interactions.{number}.')]:
            weights[name.replace(f'.{number}.', '.9.', 1)] = weights.pop(name)
    with pytest.raises(checkpoints.CheckpointError, match='10 interactions of an adapter with 4 blocks'):
        checkpoints.read(save(weights), arch=ARCHES['vrwkv'])


RECIPES = {
    **{
        f'vrwkv/vrwkv-adapter-{size}_{task}.py': ('vrwkv', kind)
        for size in ('tiny', 'small', 'base', 'large')
        for task, kind in (
            ('upernet_8xb2-amp-160k_ade20k-512x512', 'segmentor'),
            ('mask-rcnn_8xb2-1x_coco', 'detector'),
        )
    },
    **{
        f'plainmamba/plainmamba-adapter-{s}_mask-rcnn_8xb2-1x_coco.py': ('plainmamba', 'detector') for s in ('l1', 'l3')
    },
}


@pytest.mark.slow
@pytest.mark.parametrize('file', RECIPES)
def test_published_sizes(file):
    """A file of each published model gives the backbone of its recipe, from names and shapes alone."""
    family, kind = RECIPES[file]
    wanted = load_config(file).model.backbone.to_dict()
    with torch.device('meta'):
        model = MODELS.build(load_config(file).model.backbone)
    given = OrderedDict((f'backbone.{name}', value) for name, value in model.state_dict().items())
    weights = {name.removeprefix('backbone.'): value for name, value in published_names(given, family).items()}
    reader = AdaptedFamily(FAMILIES[family])
    own = {reader.rename(name): value for name, value in weights.items()}
    arch = reader.arch_of(own)
    config, _ = reader.config(own, kind, arch, reader.options({}, [*reader.file_options, *reader.config_options]))
    wanted['backbone'].pop('drop_path_rate')
    wanted.pop('drop_path_rate')
    assert {name: config[name] for name in wanted} == wanted
    assert (config['num_points'], config['conv_dims'], config['extra_extractors']) == (4, 64, 2)
    assert config['ffn_ratio'] == 0.25 and config['groups'] == model.groups


def published_names(weights, family):
    shell = nn.Module()
    shell.state_dict = lambda: weights
    return published(shell, family)
