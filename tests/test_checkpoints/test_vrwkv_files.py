"""Vision-RWKV's files as MMClassification and the scripts of VRWKV-L write them, and what is told apart."""

import itertools
from collections import OrderedDict

import pytest
import torch
from family_cases.base import randomised
from family_cases.vrwkv import LARGE, SMALL, published, without_record

from mmvim import checkpoints
from mmvim.checkpoints.families import FAMILIES
from mmvim.models import VRWKV, HiddenReadout, PlainMamba
from mmvim.models.layers.pos_embed import resize_grid

CLASSES = 7


@pytest.fixture
def save(tmp_path):
    numbers = itertools.count()  # a file that was read stays mapped

    def call(content):
        path = tmp_path / f'{next(numbers)}.pth'
        torch.save(content, path)
        return str(path)

    return call


def classifier(arch=SMALL):
    """T, S and B: a backbone behind ``backbone.``, ``head.fc`` beside it."""
    weights = OrderedDict()
    for name, value in published(arch).items():
        weights[name.replace('head.', 'head.fc.') if name.startswith('head.') else f'backbone.{name}'] = value
    return weights


def large():
    """L: a head of two layers in a sequence, positions of 192 pixels."""
    backbone = randomised(VRWKV(LARGE, img_size=192))
    weights = OrderedDict((f'backbone.{name}', x) for name, x in without_record(backbone.state_dict()).items())
    for index, layer in ((0, torch.nn.Linear(16, 24)), (2, torch.nn.Linear(24, CLASSES))):
        weights.update((f'head.{index}.{name}', x) for name, x in randomised(layer, index).state_dict().items())
    return weights


def mmcls(weights):
    """What its runner saves."""
    return {'meta': {'epoch': 300, 'config': 'model = dict()'}, 'state_dict': weights, 'optimizer': {'state': {}}}


def scripts(weights):
    """What the descendant of Swin's scripts saves."""
    return {'model': weights, 'optimizer': {}, 'lr_scheduler': {}, 'max_accuracy': 86.0, 'epoch': 19}


def backbone_of(weights):
    return {name.removeprefix('backbone.'): x for name, x in weights.items() if name.startswith('backbone.')}


def test_a_classifier(save):
    weights = classifier()
    found = checkpoints.read(save(mmcls(weights)), arch=SMALL)
    assert found.kind == 'classifier' and found.family == 'vrwkv'
    assert set(found.report.used) == set(weights) and not found.report.dropped
    assert found.report.assumed == {'backbone.pos_embed_grid': "14 x 14, the publisher's square"}
    assert found.backbone == {'type': 'mmvim.VRWKV', 'arch': SMALL, 'img_size': 224, 'out_indices': -1}
    model = checkpoints.build_classifier(found)
    assert model.backbone.layers[0].att.boundary == 'published'
    backbone = VRWKV(SMALL).eval()
    backbone.load_state_dict(backbone_of(weights), strict=True)  # without the reader
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        mean = backbone(x)[0].flatten(2).mean(-1)
        torch.testing.assert_close(model(x), mean @ weights['head.fc.weight'].T + weights['head.fc.bias'])
    assert str(checkpoints.preprocessing(found)).startswith('pictures: shorter side 256, bicubic, centre 224 x 224')


def test_the_large_classifier(save):
    """Its head has a hidden layer, and its pictures are twice as large as its positions say."""
    weights = large()
    file = save(scripts(weights))
    found = checkpoints.read(file, arch=LARGE)
    assert found.kind == 'classifier' and found.key == 'model' and len(found.report.used) == len(weights)
    assert not (found.report.dropped or found.report.resized or found.report.fresh)
    assert found.head == {'type': 'mmvim.HiddenReadout', 'in_channels': 16, 'num_classes': 7, 'hidden_channels': 24}
    assert found.names['head.hidden.weight'] == 'head.0.weight' and found.names['head.fc.bias'] == 'head.2.bias'
    model = checkpoints.build_classifier(found)
    backbone = VRWKV(LARGE, img_size=192).eval()
    backbone.load_state_dict(backbone_of(weights), strict=True)
    x = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        mean = backbone(x)[0].flatten(2).mean(-1)
        hidden = torch.tanh(mean @ weights['head.0.weight'].T + weights['head.0.bias'])
        torch.testing.assert_close(model(x), hidden @ weights['head.2.weight'].T + weights['head.2.bias'])
    family = FAMILIES['vrwkv']
    assert family.input_size('large', {'img_size': 192}) == 384 and family.input_size('large', {'img_size': 256}) == 256
    assert family.input_size('base', {'img_size': 192}) == 192
    assert str(family.view('large')) == 'pictures: shorter side 384, bicubic, centre 384 x 384 (crop pct 1.0)'
    converted, _ = checkpoints.to_mmvim(file, arch=LARGE)
    back = checkpoints.from_mmvim(save(converted))['model']
    assert list(back) == list(weights) and all(torch.equal(back[name], x) for name, x in weights.items())


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'head.0.weight': torch.ones(24, 15)}, r'head\.hidden\.weight: \(24, 15\) in the file, \(24, 16\) in'),
        ({'head.2.weight': torch.ones(7, 23)}, r'head\.fc\.weight: \(7, 23\) in the file, \(7, 24\) in'),
        ({'head.2.bias': torch.ones(7, dtype=torch.int64)}, r'head\.fc\.bias: \(7,\) in the file'),
        ({'head.0.bias': None}, r'lacks 1 weights .head\.hidden\.bias'),
        ({'head.2.weight': None, 'head.2.bias': None}, r'lacks 2 weights .head\.fc\.weight'),
    ],
)
def test_a_damaged_head_is_named(change, words, save):
    weights = {name: x for name, x in {**large(), **change}.items() if x is not None}
    with pytest.raises(checkpoints.CheckpointError, match=words):
        checkpoints.read(save(scripts(weights)), arch=LARGE)


def test_back_to_the_publishers_names(save):
    weights = classifier(LARGE)
    converted, _ = checkpoints.to_mmvim(save(mmcls(weights)), arch=LARGE)
    back = checkpoints.from_mmvim(save(converted))['state_dict']
    assert list(back) == list(weights) and all(torch.equal(back[name], x) for name, x in weights.items())


def test_a_classifier_in_a_dense_backbone(save):
    weights = classifier()
    file = save(mmcls(weights))
    backbone = VRWKV(SMALL, out_indices=(0, 3), img_size=(48, 80), init_cfg={'type': 'Pretrained', 'checkpoint': file})
    backbone.init_weights()
    given, own = backbone_of(weights), backbone.state_dict()
    assert torch.equal(own['ln1.weight'], given['ln1.weight'])
    assert torch.equal(own['pos_embed'], resize_grid(given['pos_embed'], (14, 14), (3, 5)))
    report = checkpoints.load_backbone(backbone, file)
    assert report.resized == {'pos_embed': '14 x 14 to 3 x 5 cells'} and not report.fresh
    assert set(report.dropped) == {'head.fc.weight', 'head.fc.bias'}
    report = checkpoints.load_backbone(VRWKV(SMALL, out_indices=(0, 1)), file)
    assert report.dropped['ln1.weight'] == 'not needed for out_indices=(0, 1)'
    report = checkpoints.load_backbone(VRWKV(SMALL, final_norm=False), file)
    assert report.dropped['ln1.weight'] == 'norm of the last block, which this backbone is built without'
    with torch.device('meta'):
        deep = {arch: without_record(VRWKV(arch).state_dict()) for arch in VRWKV.arch_zoo}
    family = FAMILIES['vrwkv']
    options = family.options({}, ['grid', 'img_size', 'out_indices'])
    parts = {arch: family.config(own, 'dense', arch, options)[0]['out_indices'] for arch, own in deep.items()}
    assert parts == {**dict.fromkeys(('tiny', 'small', 'base'), (2, 5, 8, 11)), 'large': (5, 11, 17, 23)}
    assert {arch: family.arch_of(own) for arch, own in deep.items()} == {arch: arch for arch in deep}


def test_scales_that_the_file_does_not_have_are_one(save):
    """As in the authors' dense VRWKV-T: the same function as the classifier."""
    weights = classifier()
    file = save(mmcls(weights))
    scaled, plain = VRWKV({**SMALL, 'layer_scale': 1e-5}).eval(), VRWKV(SMALL).eval()
    report = checkpoints.load_backbone(scaled, file)
    checkpoints.load_backbone(plain, file)
    assert report.assumed['layers.3.gamma2'] == '16 ones: the file has no layer scale'
    assert len(report.assumed) == 2 * 4 + 1
    x = torch.randn(1, 3, 64, 80)
    assert torch.equal(scaled(x)[0], plain(x)[0])
    with pytest.raises(checkpoints.CheckpointError, match='layer_scale=True, and this VRWKV has layer_scale=False'):
        checkpoints.load_backbone(plain, save(scaled.state_dict()))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'embed_dims': 24}, 'embed_dims=24, and this VRWKV has embed_dims=16'),
        ({'depth': 3}, 'depth=3, and'),
        ({'hidden_rate': 2}, 'hidden_rate=2, and this VRWKV has hidden_rate=4'),
        ({'key_norm': True}, 'key_norm=True, and this VRWKV has key_norm=False'),
        ({'layer_scale': 1.0}, 'layer_scale=True, and this VRWKV has layer_scale=False'),
    ],
)
def test_a_wrong_variant_is_named(change, words, save):
    file = save(randomised(VRWKV({**SMALL, **change})).state_dict())
    with pytest.raises(checkpoints.CheckpointError, match=f'another size: {words}'):
        checkpoints.load_backbone(VRWKV(SMALL), file)
    checkpoints.load_backbone(VRWKV({**SMALL, **change}), file)


def test_a_published_variant_is_named(save):
    with torch.device('meta'):
        names = VRWKV('small').state_dict()
    file = save({name: torch.zeros(x.shape) for name, x in names.items()})
    with pytest.raises(checkpoints.CheckpointError, match=r"arch small, embed_dims=384.*set arch='small'"):
        checkpoints.load_backbone(VRWKV('tiny'), file)


def test_vrwkv6_is_refused_by_name(save):
    weights = OrderedDict()
    for name, x in classifier().items():
        if '.att.spatial_' not in name:
            weights[name] = x
    weights |= {f'backbone.layers.{i}.att.time_maa_x': torch.ones(1, 1, 16) for i in range(4)}
    file = save(mmcls(weights))
    for call in (lambda: checkpoints.load_backbone(VRWKV(SMALL), file), lambda: checkpoints.read(file)):
        with pytest.raises(checkpoints.CheckpointError, match='VRWKV6, whose token mixer mmvim does not have'):
            call()


def test_another_family_is_named(save):
    file = save(mmcls(classifier()))
    with pytest.raises(checkpoints.CheckpointError, match='classifier of VRWKV, and this backbone is a PlainMamba'):
        checkpoints.load_backbone(PlainMamba({'embed_dims': 16, 'depth': 2, 'stem_dims': 8}), file)


@pytest.mark.parametrize('size', [(64, 256), 128, (48, 80)])
def test_the_grid_of_own_weights(size, save):
    """Travels with them: 4 x 16 cells are not read as 8 x 8."""
    model = randomised(VRWKV(SMALL, img_size=(64, 256)))
    model.pos_embed_grid.copy_(torch.tensor([4, 16]))
    backbone = VRWKV(SMALL, img_size=size)
    report = checkpoints.load_backbone(backbone, save(model.state_dict()))
    assert torch.equal(backbone.pos_embed, resize_grid(model.pos_embed, (4, 16), backbone.grid_size))
    assert not report.assumed and ('pos_embed' in report.resized) == (size != (64, 256))
    assert checkpoints.read(save(model.state_dict()), arch=SMALL).backbone['img_size'] == (64, 256)


def test_a_file_of_other_patches(save):
    model = randomised(VRWKV(SMALL, img_size=64, patch_size=8))
    found = checkpoints.read(save(model.state_dict()), arch=SMALL)
    assert (found.backbone['patch_size'], found.backbone['img_size']) == (8, 64)


def test_the_hidden_readout():
    head = HiddenReadout(8, 24, num_classes=5)
    x = torch.randn(2, 8, 3, 5)
    expected = head.fc(torch.tanh(head.hidden(x.mean((2, 3)))))
    assert torch.equal(head([x]), expected) and torch.equal(head([x.mean((2, 3))]), expected)
