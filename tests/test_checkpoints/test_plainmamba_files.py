"""PlainMamba's files as MMClassification and MMSegmentation write them, their positions, and other variants."""

import itertools
from collections import OrderedDict

import pytest
import torch
from family_cases.base import randomised
from family_cases.plainmamba import SMALL, published, without_record
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from published_files import prefixed

from mmvim import checkpoints
from mmvim.models import PlainMamba
from mmvim.models.layers.pos_embed import resize_grid

FOUR = {**SMALL, 'depth': 4}
TWO = {**SMALL, 'depth': 2}


def classifier():
    """A backbone behind ``backbone.``, a pooling neck without weights, ``head.fc`` beside it."""
    weights = OrderedDict()
    for name, value in published().items():
        weights[name.replace('head.', 'head.fc.') if name.startswith('head.') else f'backbone.{name}'] = value
    return weights


def backbone_of(weights):
    return {name.removeprefix('backbone.'): x for name, x in weights.items() if name.startswith('backbone.')}


def mmcls(weights):
    """What its runner saves."""
    return {'meta': {'epoch': 300, 'config': 'model = dict()'}, 'state_dict': weights, 'optimizer': {'state': {}}}


@pytest.fixture
def save(tmp_path):
    numbers = itertools.count()  # a file that was read stays mapped

    def call(content):
        path = tmp_path / f'{next(numbers)}.pth'
        torch.save(content, path)
        return str(path)

    return call


def test_a_classifier(save):
    weights = classifier()
    file = save(mmcls(weights))
    found = checkpoints.read(file, arch=SMALL)
    assert found.kind == 'classifier' and found.key == 'state_dict'
    assert set(found.report.used) == set(weights) and not found.report.dropped
    assert found.report.assumed == {'backbone.pos_embed_grid': "14 x 14, the publisher's square"}
    assert found.backbone == {'type': 'mmvim.PlainMamba', 'arch': SMALL, 'img_size': 224, 'out_indices': -1}
    model = checkpoints.build_classifier(found)
    backbone = PlainMamba(SMALL).eval()
    backbone.load_state_dict(backbone_of(weights), strict=True)  # without the reader
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        tokens = backbone(x)[0].flatten(2).mean(-1)  # the mean of ln1's tokens
        expected = tokens @ weights['head.fc.weight'].T + weights['head.fc.bias']
        torch.testing.assert_close(model(x), expected)
    assert str(checkpoints.preprocessing(found)).startswith('pictures: shorter side 256, bicubic, centre 224 x 224')


def test_back_to_the_publishers_names(save):
    weights = classifier()
    converted, _ = checkpoints.to_mmvim(save(mmcls(weights)), arch=SMALL)
    back = checkpoints.from_mmvim(save(converted))['state_dict']
    assert list(back) == list(weights) and all(torch.equal(back[name], x) for name, x in weights.items())


def test_a_classifier_in_a_dense_backbone(save):
    weights = classifier()
    file = save(mmcls(weights))
    backbone = PlainMamba(
        SMALL, out_indices=(0, 1), img_size=(48, 80), init_cfg={'type': 'Pretrained', 'checkpoint': file}
    )
    backbone.init_weights()
    given, own = backbone_of(weights), backbone.state_dict()
    assert torch.equal(own['ln1.weight'], given['ln1.weight']), "the classifier's last norm is the last output's"
    assert torch.equal(own['pos_embed'], resize_grid(given['pos_embed'], (14, 14), (3, 5)))
    report = checkpoints.load_backbone(backbone, file)
    assert report.fresh.keys() == {'norm_layer0.weight', 'norm_layer0.bias'}
    assert report.resized == {'pos_embed': '14 x 14 to 3 x 5 cells'}
    assert set(report.dropped) == {'head.fc.weight', 'head.fc.bias'}
    dense = checkpoints.read(file, arch=SMALL, task='dense')
    assert dense.backbone['out_indices'] == (0, 1) and len(dense.report.fresh) == 2
    with torch.device('meta'):
        deep = {arch: without_record(PlainMamba(arch).state_dict()) for arch in PlainMamba.arch_zoo}
    family = checkpoints.families.FAMILIES['plainmamba']
    options = family.options({}, ['grid', 'img_size', 'out_indices'])
    parts = {arch: family.config(own, 'dense', arch, options)[0]['out_indices'] for arch, own in deep.items()}
    assert parts == {'l1': (5, 11, 17, 23), 'l2': (5, 11, 17, 23), 'l3': (8, 17, 26, 35)}


def test_without_norms(save):
    """A backbone that is built without the last norm names what it leaves out."""
    file = save(mmcls(classifier()))
    report = checkpoints.load_backbone(PlainMamba(SMALL, final_norm=False), file)
    assert report.dropped['ln1.weight'] == 'norm of the last block, which this backbone is built without'
    raw = PlainMamba(SMALL, out_indices=(0, 1), out_norm=False, final_norm=False)
    own = save({'state_dict': prefixed(raw.state_dict(), 'backbone.') | {'decode_head.w': torch.ones(1)}})
    found = checkpoints.read(own, arch=SMALL, out_indices=(0, 1))
    assert not (found.backbone['out_norm'] or found.backbone['final_norm']) and not found.report.fresh
    with pytest.raises(checkpoints.CheckpointError, match=r'lacks 2 weights .ln1\.weight, ln1\.bias'):
        checkpoints.load_backbone(PlainMamba(SMALL, out_norm=False), own)


def segmentor(**backbone):
    """Mmseg's own EncoderDecoder as the published recipes have it, narrow."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    common = {'num_classes': 5, 'norm_cfg': {'type': 'BN'}, 'align_corners': False}
    return randomised(
        MODELS.build(
            {
                'type': 'EncoderDecoder',
                'backbone': {'type': 'mmvim.PlainMamba', 'arch': FOUR, 'out_indices': (0, 1, 2, 3), **backbone},
                'decode_head': {
                    'type': 'UPerHead',
                    'in_channels': [16] * 4,
                    'in_index': [0, 1, 2, 3],
                    'channels': 8,
                    'pool_scales': (1, 2, 3, 6),
                    **common,
                },
                'auxiliary_head': {
                    'type': 'FCNHead',
                    'in_channels': 16,
                    'in_index': 3,
                    'channels': 8,
                    'num_convs': 1,
                    'concat_input': False,
                    **common,
                },
                'test_cfg': {'mode': 'whole'},
            }
        )
    ).eval()


def test_a_whole_segmentor(save):
    """Every tensor has its place, and the configs that are read off the file build the same model."""
    model = segmentor()
    weights = without_record(model.state_dict())
    file = save({'state_dict': weights, 'meta': {'iter': 160000, 'CLASSES': ('wall',)}})
    found = checkpoints.read(file, arch=FOUR)
    assert found.kind == 'segmentor' and set(found.report.used) == set(weights)
    assert not (found.report.dropped or found.report.fresh or found.report.resized)
    assert found.backbone['out_indices'] == (0, 1, 2, 3) and found.neck is None
    assert found.heads['auxiliary_head']['in_index'] == 3 and found.head['in_channels'] == [16] * 4
    again = MODELS.build({'type': 'EncoderDecoder', 'backbone': found.backbone, **found.heads})
    again.load_state_dict(found.state_dict, strict=True)
    x = torch.randn(1, 3, 64, 96)
    again = revert_sync_batchnorm(again).eval()
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
        for a, b in zip(*(m.auxiliary_head(m.extract_feat(x)) for m in (model, again)), strict=True):
            assert torch.equal(a, b)
    checkpoint, report = checkpoints.read_for_model(file)
    third = segmentor(img_size=(64, 96))
    third.load_state_dict(checkpoint['state_dict'], strict=True)
    assert not report.dropped and third.backbone.pos_embed_grid.tolist() == [4, 6]
    others = {name: x for name, x in third.state_dict().items() if 'pos_embed' not in name}
    assert all(torch.equal(x, weights[name]) for name, x in others.items())


def test_the_backbone_of_a_segmentor(save):
    model = segmentor()
    weights = without_record(model.state_dict())
    file = save({'state_dict': weights})
    fewer = PlainMamba(FOUR, out_indices=(1, 3))
    report = checkpoints.load_backbone(fewer, file)
    own = backbone_of(weights)
    assert torch.equal(fewer.norm_layer1.weight, own['norm_layer1.weight']) and not report.fresh
    assert {n for n in report.dropped if n.startswith('norm_layer')} == {
        f'norm_layer{i}.{end}' for i in (0, 2) for end in ('weight', 'bias')
    }
    other = {name: x for name, x in weights.items() if 'norm_layer2' not in name}
    with pytest.raises(checkpoints.CheckpointError, match=r'lacks 2 weights .norm_layer2'):
        checkpoints.load_backbone(PlainMamba(FOUR, out_indices=(0, 1, 2, 3)), save({'state_dict': other}))


@pytest.mark.parametrize('size', [(64, 256), 128, (48, 80)])
def test_the_grid_of_own_weights(size, save):
    """Travels with them: 4 x 16 cells are not read as 8 x 8."""
    model = randomised(PlainMamba(SMALL, img_size=(64, 256)))
    model.pos_embed_grid.copy_(torch.tensor([4, 16]))
    backbone = PlainMamba(SMALL, img_size=size)
    report = checkpoints.load_backbone(backbone, save(model.state_dict()))
    assert torch.equal(backbone.pos_embed, resize_grid(model.pos_embed, (4, 16), backbone.grid_size))
    assert not report.assumed and ('pos_embed' in report.resized) == (size != (64, 256))
    assert checkpoints.read(save(model.state_dict()), arch=SMALL).backbone['img_size'] == (64, 256)
    with pytest.raises(
        checkpoints.CheckpointError, match=r'grid=\(8, 8\) is not that of the file, which says \(4, 16\)'
    ):
        checkpoints.load_backbone(backbone, save(model.state_dict()), grid=(8, 8))


def test_a_grid_that_nobody_says(save):
    """A publisher's grid is a square; anything else needs the user's word."""
    weights = without_record(randomised(PlainMamba(SMALL, img_size=(64, 128))).state_dict())
    backbone = PlainMamba(SMALL, img_size=(64, 128))
    with pytest.raises(checkpoints.CheckpointError, match=r'does not fill a square grid; give grid=\(rows, columns\)'):
        checkpoints.load_backbone(backbone, save(weights))
    with pytest.raises(checkpoints.CheckpointError, match=r'does not fill a grid of \(4, 7\)'):
        checkpoints.load_backbone(backbone, save(weights), grid=(4, 7))
    report = checkpoints.load_backbone(backbone, save(weights), grid=(4, 8))
    assert torch.equal(backbone.pos_embed, weights['pos_embed'])
    assert report.assumed == {'pos_embed_grid': "4 x 8, the argument 'grid'"}
    weights['pos_embed_grid'] = torch.tensor([4, 9])
    with pytest.raises(checkpoints.CheckpointError, match='does not fill the grid that its record has'):
        checkpoints.load_backbone(backbone, save(weights))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'d_state': 8}, 'd_state=8, and this PlainMamba has d_state=4'),
        ({'d_conv': 7}, 'd_conv=7, and this PlainMamba has d_conv=3'),
        ({'expand': 1}, 'expand=1.0, and this PlainMamba has expand=2'),
        ({'stem_convs': 2}, 'stem_convs=2, and this PlainMamba has stem_convs=1'),
        ({'conv_blocks': ()}, r'conv_blocks=\(\), and this PlainMamba has conv_blocks=\(0,\)'),
        ({'conv_blocks': (1, 0)}, r'conv_blocks=\(0, 1\), and'),
        ({'depth': 3}, 'depth=3, and'),
    ],
)
def test_a_wrong_variant_is_named(change, words, save):
    file = save(randomised(PlainMamba({**SMALL, **change})).state_dict())
    with pytest.raises(checkpoints.CheckpointError, match=f'another size: {words}'):
        checkpoints.load_backbone(PlainMamba(SMALL), file)
    checkpoints.load_backbone(PlainMamba({**SMALL, **change}), file)


def test_a_detector_with_an_adapter_is_refused(save):
    """Its backbone has modules of its own, which have no place here."""
    weights = prefixed(backbone_of(classifier()), 'backbone.')
    weights['backbone.spm.stem.0.weight'] = torch.ones(1)
    with pytest.raises(checkpoints.CheckpointError, match=r'1 that belong nowhere .spm\.stem\.0\.weight'):
        checkpoints.load_backbone(PlainMamba(SMALL), save({'state_dict': weights}))
