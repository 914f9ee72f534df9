"""The forms in which VMamba's files keep the same numbers, files of another variant, and files of dense models."""

from collections import OrderedDict

import pytest
import torch
from checkout import load_config
from family_cases.base import randomised
from family_cases.vmamba import FIRST, SMALL, published
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict

from mmvim import checkpoints
from mmvim.models import VMamba

WIDE = {**SMALL, 'ssm_ratio': 2}
LINEAR = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight', 'x_proj.weight', 'dt_projs.weight')


def kernels(weights):
    """Linear layers as 1 x 1 convolutions."""
    return OrderedDict((n, x[..., None, None] if n.endswith(LINEAR) else x) for n, x in weights.items())


def stacked(weights):
    """The projections of the paths with an axis for the paths."""
    return OrderedDict(
        (n.removesuffix('.weight') + '_weight', x.unflatten(0, (4, -1)))
        if n.endswith(('x_proj.weight', 'dt_projs.weight'))
        else (n, x)
        for n, x in weights.items()
    )


def older(weights):
    """The names of the first files."""
    found = OrderedDict()
    for name, value in weights.items():
        for new, old in (
            ('patch_embed.0.', 'patch_embed.proj.'),
            ('patch_embed.2.', 'patch_embed.norm.'),
            ('downsample.1.', 'downsample.norm.'),
            ('downsample.2.', 'downsample.reduction.'),
            ('.op.', '.self_attention.'),
            ('classifier.', ''),
        ):
            name = name.replace(new, old)
        if '.blocks.' in name and 'self_attention' not in name:
            name = name.replace('.norm.', '.ln_1.')
        found[name] = value
    return found


@pytest.mark.parametrize('change', [kernels, stacked, lambda weights: kernels(stacked(weights))])
def test_other_forms_of_the_same_numbers(change, write):
    weights = published(SMALL)
    plain, other = write(weights, name='plain.pth'), write(change(weights), name='other.pth')
    backbones = [VMamba(SMALL), VMamba(SMALL)]
    reports = [checkpoints.load_backbone(b, f) for b, f in zip(backbones, (plain, other), strict=True)]
    assert not reports[0].resized and reports[1].resized
    assert set(reports[0].used) == set(reports[1].used) | set(reports[1].resized)
    given = backbones[0].state_dict()
    for name, value in backbones[1].state_dict().items():
        assert name.startswith('outnorm') or torch.equal(value, given[name]), name
    assert checkpoints.read(other, arch=SMALL).kind == 'classifier'
    # PyTorch and MMEngine, which loads a whole model so, without the reader
    for load in (VMamba.load_state_dict, load_state_dict):
        direct = VMamba(SMALL, out_norm=False)
        theirs = {n: x for n, x in change(weights).items() if not n.startswith('classifier.')}
        before = dict(theirs)
        load(direct, theirs, strict=True)
        assert all(torch.equal(x, given[n]) for n, x in direct.state_dict().items())
        assert list(theirs) == list(before) and all(theirs[n] is x for n, x in before.items()), 'the weights changed'


def test_both_forms_at_once_are_one_too_many(write):
    """Whichever comes first, neither is dropped without a word."""
    weights = published(SMALL)
    other = stacked(weights)
    (name,) = [n for n in other if n not in weights and n.startswith('layers.0.blocks.0.') and 'x_proj' in n]
    for both in (OrderedDict(weights, **{name: other[name]}), OrderedDict({name: other[name]}, **weights)):
        with pytest.raises(checkpoints.CheckpointError, match=r'1 that belong nowhere .*op\.x_proj_weight'):
            checkpoints.load_backbone(VMamba(SMALL), write(both))


def test_names_of_the_first_files(write):
    weights = published(FIRST)
    names = older(weights)
    assert 'head.weight' in names and 'layers.0.blocks.0.ln_1.weight' in names
    found = checkpoints.read(write(names), arch=FIRST)
    assert found.kind == 'classifier' and len(found.report.used) == len(weights) and not found.report.dropped
    assert torch.equal(found.state_dict['head.fc.weight'], weights['classifier.head.weight'])


def test_a_wrong_variant_is_named(write):
    file = write(randomised(VMamba(WIDE)).state_dict())
    with pytest.raises(checkpoints.CheckpointError, match='another size: ssm_ratio=2, and this VMamba has ssm_ratio=1'):
        checkpoints.load_backbone(VMamba(SMALL), file)
    with pytest.raises(checkpoints.CheckpointError, match='release=v2'):
        checkpoints.load_backbone(VMamba(FIRST), file)


def test_another_shape_is_a_misfit(write):
    weights = randomised(VMamba(SMALL)).state_dict()
    name = 'layers.0.blocks.0.op.x_proj.weight'
    weights[name] = weights[name].T.contiguous()  # as many numbers
    with pytest.raises(checkpoints.CheckpointError, match=r'op\.x_proj\.weight'):
        checkpoints.load_backbone(VMamba(SMALL), write(weights))


def segmentor(arch):
    """A published segmentor made narrow: MMSegmentation's UperNet."""
    cfg = load_config('vmamba/vmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py').model
    cfg.backbone.arch = arch
    cfg.decode_head.update(in_channels=[8, 16, 32, 64], channels=16, num_classes=5)
    cfg.auxiliary_head.update(in_channels=32, channels=16, num_classes=5)
    return cfg


def detector(arch):
    """A published detector made narrow: MMDetection's Mask R-CNN."""
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    cfg = load_config('vmamba/vmamba-tiny_mask-rcnn_8xb2-1x_coco.py').model
    cfg.backbone.arch = arch
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    cfg.rpn_head.update(in_channels=8, feat_channels=8)
    roi = cfg.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 8
    roi.bbox_head.update(in_channels=8, fc_out_channels=24, num_classes=5)
    roi.mask_head.update(in_channels=8, conv_out_channels=8, num_classes=5)
    return cfg


@pytest.mark.parametrize('change', [lambda weights: weights, lambda weights: kernels(stacked(weights))])
@pytest.mark.parametrize('arch', [SMALL, FIRST], ids=['second', 'first'])
@pytest.mark.parametrize(('make', 'scope'), [(segmentor, 'mmseg'), (detector, 'mmdet')])
def test_a_dense_model_is_read_whole(make, scope, arch, change, write):
    """Its configs and weights build the model that wrote it, in the type and to the bit."""
    cfg = make(arch)
    init_default_scope(scope)
    model = randomised(MODELS.build(dict(cfg))).eval()
    weights = model.state_dict()
    given = change(weights) if arch is SMALL else weights
    found = checkpoints.read(write(given, 'state_dict'), arch=arch)
    assert found.kind == {'mmseg': 'segmentor', 'mmdet': 'detector'}[scope]
    assert found.report.missing == found.report.unexpected == [] and not found.dropped
    assert set(found.state_dict) == set(weights)
    neck = {} if found.neck is None else {'neck': found.neck}
    other = MODELS.build({**cfg, 'backbone': found.backbone, **neck, **found.heads}).eval()
    other.load_state_dict(found.state_dict, strict=True)
    assert all(torch.equal(value, weights[name]) for name, value in other.state_dict().items())
    picture = torch.randn(1, 3, 64, 90)
    with torch.no_grad():
        for a, b in zip(model.extract_feat(picture), other.extract_feat(picture), strict=True):
            assert torch.equal(a, b)
    # Only the backbone of it
    report = checkpoints.load_backbone(VMamba(arch, out_indices=(1, 2)), write(given, 'state_dict'))
    assert all(
        name.removeprefix('backbone.').startswith(('layers.2.downsample', 'layers.3', 'outnorm0', 'outnorm3'))
        or not name.startswith('backbone.')
        for name in report.dropped
    )
