"""Published files go straight into the tools: whole segmentors and detectors, classifiers, converters."""

import re
import sys
from collections import OrderedDict

import cv2
import numpy as np
import pytest
import tiny_runs as tiny
import torch
from checkout import load_tool
from family_cases.base import randomised
from mmengine.model import BaseModule

ARCH = 'dict(depths=(1, 1, 2, 2), dim=8, in_dim=8, num_heads=(1, 1, 2, 4))'

# The published segmentor, narrow: UPerHead and auxiliary FCNHead on MambaVision with windows larger than the maps.
SEGMENTOR = """
_base_ = './{base}'
norm_cfg = dict(type='SyncBN', requires_grad=True)
loss = dict(type='CrossEntropyLoss', use_sigmoid=False)
model = dict(
    backbone=dict(_delete_=True, type='mmvim.MambaVision', arch={arch}, window_sizes=(8, 8, 8, 4)),
    decode_head=dict(
        _delete_=True, type='UPerHead', in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6),
        channels=8, dropout_ratio=0.1, num_classes=150, norm_cfg=norm_cfg, align_corners=False, loss_decode=loss),
    auxiliary_head=dict(
        type='FCNHead', in_channels=32, in_index=2, channels=4, num_convs=1, concat_input=False, dropout_ratio=0.1,
        num_classes=150, norm_cfg=norm_cfg, align_corners=False, loss_decode=loss))
"""

# The published detector, narrow: Cascade Mask R-CNN with 4conv1fc heads.
DETECTOR = """
_base_ = './{base}'
cascade = {cascade!r}
roi = cascade['roi_head']
coder = [dict(type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=stds)
         for stds in ([.1, .1, .2, .2], [.05, .05, .1, .1], [.033, .033, .067, .067])]
model = dict(
    cascade, _delete_=True,
    backbone=dict(type='mmvim.MambaVision', arch={arch}, window_sizes=(8, 8, 8, 4)),
    neck=dict(cascade['neck'], in_channels=[8, 16, 32, 64], out_channels=8),
    rpn_head=dict(cascade['rpn_head'], in_channels=8, feat_channels=8),
    roi_head=dict(
        roi, bbox_roi_extractor=dict(roi['bbox_roi_extractor'], out_channels=8),
        bbox_head=[dict(
            type='ConvFCBBoxHead', num_shared_convs=4, num_shared_fcs=1, in_channels=8, conv_out_channels=8,
            fc_out_channels=16, roi_feat_size=7, num_classes=3, bbox_coder=c, reg_class_agnostic=False,
            reg_decoded_bbox=True, norm_cfg=dict(type='SyncBN', requires_grad=True),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0)) for c in coder],
        mask_roi_extractor=dict(roi['mask_roi_extractor'], out_channels=8),
        mask_head=dict(roi['mask_head'], in_channels=8, conv_out_channels=8, num_classes=3)))
del cascade, roi, coder
"""


def write_config(kind, path, base):
    """Write the config of the narrow published model; `base` has the data."""
    if kind == 'seg':
        path.write_text(SEGMENTOR.format(base=base.name, arch=ARCH))
        return path
    from mmengine.config import Config

    cascade = Config.fromfile(tiny._bases('mmdet') + 'models/cascade-mask-rcnn_r50_fpn.py').model.to_dict()
    path.write_text(DETECTOR.format(base=base.name, arch=ARCH, cascade=cascade))
    return path


def build(config, seed=0):
    """A model with random weights, batch statistics included."""
    from mmvim import cli

    return randomised(cli.build_model(cli.load_config(str(config))).eval(), seed, scale=0.1)


def write(weights, path, form):
    """A file as MMEngine writes it, or as another script wraps it."""
    if form == 'mmengine':
        content = {
            'meta': {'epoch': 36, 'mmdet_version': '3.3.0'},
            'state_dict': OrderedDict(weights),
            'optimizer': {'state': {}},
            'message_hub': {},
        }
    else:
        content = {'model': OrderedDict((f'module.{k}', v) for k, v in weights.items())}
    torch.save(content, path)
    return path


def loaded_by(evaluate, monkeypatch, argv):
    """Run the test tool; return the weights that the tested model had, and its results."""
    from mmengine.runner import Runner

    seen = {}

    def test(self):
        metrics = original(self)
        seen.update(weights={k: v.clone() for k, v in self.model.state_dict().items()}, metrics=metrics)
        return metrics

    original = Runner.test
    monkeypatch.setattr(Runner, 'test', test)
    evaluate.main([str(a) for a in argv])
    return seen


@pytest.mark.parametrize('form', ['mmengine', 'wrapped'])
@pytest.mark.parametrize('kind', ['seg', 'det'])
def test_whole_models(kind, form, evaluate, request, tmp_path, monkeypatch, capsys):
    base = request.getfixturevalue(kind)
    config = write_config(kind, tmp_path / f'published_{kind}_{form}_{tmp_path.name}.py', base)
    weights = build(config).state_dict()
    file = write(weights, tmp_path / 'published.pth', form)
    seen = loaded_by(evaluate, monkeypatch, [config, file, '--work-dir', tmp_path / 'work'])
    assert seen['weights'].keys() == weights.keys(), 'nothing left over'
    assert all(torch.equal(value, weights[name]) for name, value in seen['weights'].items())
    assert ('mIoU' if kind == 'seg' else 'coco/bbox_mAP') in seen['metrics']
    assert 'does not use' not in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['seg', 'det'])
def test_configs_read_off_a_file_build_the_same_model(kind, request, tmp_path):
    """Backbone, neck and heads by `read` give the file's own outputs, heads included."""
    from mmengine.registry import init_default_scope

    from mmvim import checkpoints, cli

    base = request.getfixturevalue(kind)
    config = write_config(kind, tmp_path / f'read_{kind}.py', base)
    model = build(config)
    arch = eval(ARCH, {'dict': dict})
    found = checkpoints.read(
        str(write(model.state_dict(), tmp_path / 'published.pth', 'wrapped')), arch=arch, window_sizes=(8, 8, 8, 4)
    )
    assert found.kind == {'seg': 'segmentor', 'det': 'detector'}[kind]
    assert found.state_dict.keys() == model.state_dict().keys() and not found.report.dropped
    cfg = cli.load_config(str(config))
    built = {**cfg.model, 'backbone': found.backbone, **found.heads}
    if kind == 'det':
        built['neck'] = found.neck
    init_default_scope(cfg.default_scope)
    other = cli.build_model(type(cfg)({**cfg.to_dict(), 'model': built})).eval()
    other.load_state_dict(found.state_dict, strict=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for a, b in zip(outputs(model, x), outputs(other, x), strict=True):
            assert torch.equal(a, b)


def outputs(model: BaseModule, x: torch.Tensor) -> list[torch.Tensor]:
    """Logits of every head, of a detector on two fixed boxes."""
    features = model.extract_feat(x)
    if hasattr(model, 'decode_head'):
        return [model.decode_head(features), model.auxiliary_head(features)]
    rois = torch.tensor([[0.0, 4.0, 4.0, 40.0, 40.0], [0.0, 10.0, 2.0, 30.0, 60.0]])
    found = [t for level in model.rpn_head(features) for t in level]
    for stage in range(3):
        found += model.roi_head._bbox_forward(stage, features, rois).values()
    found += model.roi_head._mask_forward(2, features, rois).values()
    return [t for t in found if isinstance(t, torch.Tensor)]


def test_wrong_files(evaluate, fails, seg, tmp_path):
    config = write_config('seg', tmp_path / f'wrong_{tmp_path.name}.py', seg)
    weights = build(config).state_dict()
    half = dict(list(weights.items())[::2])
    own = {name for name in weights if not name.endswith('num_batches_tracked') and 'auxiliary' not in name}
    command = (evaluate.main, config, tmp_path / 'file.pth', '--work-dir', tmp_path / 'work')
    write(half, tmp_path / 'file.pth', 'mmengine')
    line = fails(*command, status=2)
    assert f'lacks {len(own) - len(half.keys() & own)} weights' in line
    write({k: v for k, v in weights.items() if not k.startswith('decode_head')}, tmp_path / 'file.pth', 'wrapped')
    assert 'lacks' in fails(*command, status=2)
    name = 'decode_head.conv_seg.weight'
    write({**weights, name: weights[name].to(torch.int8)}, tmp_path / 'file.pth', 'mmengine')
    assert f'has 1 of another shape or kind ({name}: int8 in the file' in fails(*command, status=2)
    write({**weights, name: weights[name].to_sparse()}, tmp_path / 'file.pth', 'mmengine')
    assert f'not plain weights ({name}: sparse_coo)' in fails(*command, status=1)
    assert not (tmp_path / 'work').exists()


def test_training_starts_from_a_published_backbone_or_says_why_not(train, fails, seg, tmp_path, capsys):
    from mmvim.models import Vim

    published = Vim({'embed_dims': 16, 'depth': 2}, patch_size=8, img_size=32, cls_token='middle', final_norm=True)
    file = tmp_path / 'vim.pth'
    torch.save({'model': published.state_dict()}, file)
    options = ['--cfg-options', 'model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={file}']
    train.main(
        [
            str(seg),
            '--work-dir',
            str(tmp_path / 'work'),
            *options,
            'train_cfg.max_iters=1',
            'optim_wrapper.optimizer.lr=0.',
            'param_scheduler.0.start_factor=1.',
        ]
    )
    trained = torch.load(tmp_path / 'work' / 'iter_1.pth', weights_only=False)['state_dict']
    for name, value in published.state_dict().items():
        if name.startswith('layers'):
            assert torch.equal(trained[f'backbone.{name}'], value), name
    assert 'row 8 of 17 left out' in capsys.readouterr().out
    wrong = fails(train.main, seg, '--work-dir', tmp_path / 'no', *options, 'model.backbone.patch_size=16', status=2)
    assert "patch_change='resample'" in wrong and not (tmp_path / 'no').exists()


@pytest.fixture
def classifier(tmp_path):
    """A published Vim-Ti of twenty classes with random weights."""
    from mmvim.models import LinearReadout, Vim

    torch.manual_seed(0)
    weights = Vim('tiny', cls_token='middle', final_norm=True).state_dict()
    del weights['pos_embed_grid']  # mmvim's own record
    weights.update((f'head.{k}', v) for k, v in LinearReadout(192, 20).fc.state_dict().items())
    torch.save({'model': weights}, tmp_path / 'vim.pth')
    return tmp_path / 'vim.pth'


def test_converters(classifier, fails, tmp_path, capsys):
    there = load_tool('model_converters/published_to_mmvim.py').main
    back = load_tool('model_converters/mmvim_to_published.py').main
    before = sorted(tmp_path.iterdir())
    there([str(classifier), '--check'])
    assert 'classifier of Vim, arch tiny; 415 used' in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before
    there([str(classifier), str(tmp_path / 'plain.pth'), '--arch', 'tiny'])
    there([str(classifier), str(tmp_path / 'again.pth')])
    assert (tmp_path / 'plain.pth').read_bytes() == (tmp_path / 'again.pth').read_bytes()
    back([str(tmp_path / 'plain.pth'), str(tmp_path / 'back.pth')])
    original, returned = (torch.load(f, weights_only=True)['model'] for f in (classifier, tmp_path / 'back.pth'))
    assert list(original) == list(returned)
    assert all(torch.equal(value, returned[name]) for name, value in original.items())
    there([str(classifier), '--check', '--dense', '--options', 'img_size=512', 'compat=upstream'])
    out = capsys.readouterr().out
    assert '14 x 14 to 32 x 32' in out and "compat='upstream'" in out
    assert 'either OUT or --check' in fails(there, classifier, status=2)
    assert 'there is no folder' in fails(there, classifier, tmp_path / 'none' / 'x.pth', status=1)
    assert 'is not a name' in fails(back, tmp_path / 'plain.pth', '', status=1)
    assert "it is arch='tiny'" in fails(there, classifier, '--check', '--arch', 'small', status=2)
    assert "no option 'window'" in fails(there, classifier, '--check', '--options', 'window=3', status=1)
    assert 'give FILE' in fails(there, classifier, '--check', '--options', 'file=x', status=2)
    assert 'give --arch' in fails(there, classifier, '--check', '--options', 'arch=tiny', status=2)
    assert "rope='no'" in fails(there, classifier, '--check', '--options', 'rope=no', status=1)
    assert 'say what it is' in fails(back, classifier, '--check', status=1)


def test_classify(classifier, fails, tmp_path, capsys, monkeypatch):
    main = load_tool('classify.py').main
    picture = tmp_path / 'picture.png'
    generator = np.random.default_rng(0)
    cv2.imwrite(str(picture), generator.integers(0, 256, (300, 260, 3), dtype=np.uint8))
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join(f'name{i}' for i in range(20)))
    main([str(picture), '--arch', 'tiny', '--checkpoint', str(classifier), '--classes', str(names), '--device', 'cpu'])
    out = capsys.readouterr().out
    assert out.count('name') >= 5 and 'shorter side 256, bicubic, centre 224 x 224' in out

    from mmvim import checkpoints

    found = checkpoints.read(str(classifier))
    view = checkpoints.preprocessing(found)(checkpoints.read_picture(str(picture)))
    with torch.no_grad():
        best = checkpoints.build_classifier(found)(view[None])[0].argmax().item()
    first = next(line for line in out.splitlines() if 'name' in line)
    assert f'name{best} ' in first
    assert 'arch=' in fails(main, picture, '--arch', 'small', '--checkpoint', classifier, status=2)
    assert 'cannot be read' in fails(main, tmp_path / 'none.png', '--checkpoint', classifier, status=1)
    with monkeypatch.context() as patch:
        patch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 100)
        assert 'decompression bomb' in fails(main, picture, '--checkpoint', classifier, status=1)
    names.write_text('a\nb')
    assert '2 lines' in fails(main, picture, '--checkpoint', classifier, '--classes', names, status=2)
    assert '--device abacus cannot be used' in fails(main, picture, '--checkpoint', 'x', '--device', 'abacus', status=2)
    assert 'crop_pct=0.0' in fails(main, picture, '--checkpoint', classifier, '--crop-pct', '0', status=1)
    assert 'more than 32768' in fails(main, picture, '--checkpoint', classifier, '--crop-pct', '1e-7', status=1)


def test_classify_in_bfloat16(classifier, tmp_path, capsys, monkeypatch):
    """Layers compute in bfloat16, weights stay, and the printed probabilities are those of float32 nearly."""
    main = load_tool('classify.py').main
    picture = tmp_path / 'picture.png'
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (240, 260, 3), dtype=np.uint8))
    seen, own = set(), torch.nn.Linear.forward

    def forward(layer, x):
        y = own(layer, x)
        seen.add((y.dtype, layer.weight.dtype))
        return y

    monkeypatch.setattr(torch.nn.Linear, 'forward', forward)
    best = {}
    for dtype in ('float32', 'bf16'):
        seen.clear()
        main([str(picture), '--checkpoint', str(classifier), '--device', 'cpu', '--dtype', dtype])
        assert seen == {(torch.bfloat16 if dtype == 'bf16' else torch.float32, torch.float32)}
        best[dtype] = [float(value) for value in re.findall(r'0\.\d{4}\b', capsys.readouterr().out)]
    assert len(best['bf16']) == 5 and best['bf16'] == pytest.approx(best['float32'], rel=0.1)


def test_preprocessing():
    """Sizes, centre and normalisation by hand."""
    from mmvim.checkpoints import View

    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 90:110] = (255, 0, 0)
    x = View(50, 0.5, 'bilinear')(picture)
    assert x.shape == (3, 50, 50)  # shorter side 100: as it is; the centre columns 75 to 124
    assert x[0, 25, 25].item() == pytest.approx((1 - 0.485) / 0.229, abs=1e-4)
    assert x[1, 25, 25].item() == pytest.approx(-0.456 / 0.224, abs=1e-4)
    red = (x[0, 25] > 0).nonzero().flatten().tolist()
    assert red == list(range(15, 35))


def test_squashed_pictures():
    """Both sides of the whole picture to the same, whatever its aspect, and the centre of that."""
    from mmvim.checkpoints import View

    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 90:110] = (255, 0, 0)
    x = View(50, 0.5, 'bilinear', 'squash')(picture)
    red = (x[0, 25] > 0).nonzero().flatten().tolist()
    assert x.shape == (3, 50, 50) and red == list(range(20, 30))  # columns 45 to 54 of 100, less 25
    assert 'both sides 550' in str(View(512, 0.93, 'bicubic', 'squash'))


@pytest.mark.parametrize(
    ('arch', 'given', 'img_size', 'crop_pct', 'crop_mode'),
    [
        ('tiny', {}, 224, 1.0, 'center'),
        ('tiny2', {}, 224, 0.98, 'center'),
        ('small', {}, 224, 0.93, 'center'),
        ('large2', {}, 224, 1.0, 'center'),
        ('large3', {}, 256, 1.0, 'center'),
        ('tiny', {'img_size': 512}, 512, 1.0, 'center'),
        ('large2', {'img_size': 512}, 512, 0.93, 'squash'),
        ('large3', {'img_size': 512}, 512, 0.93, 'squash'),
        ('large3', {'window_sizes': (8, 8, 32, 16)}, 512, 0.93, 'squash'),
    ],
)
def test_the_publishers_view(arch, given, img_size, crop_pct, crop_mode):
    """It follows what a file is read for, windows included."""
    from mmvim.checkpoints import Published, View, preprocessing
    from mmvim.checkpoints.families import FAMILIES

    family = FAMILIES['mambavision']
    settings = family.options(given, family.config_options)
    backbone, _ = family.config({}, 'classifier', arch, settings)
    found = Published('mambavision', arch, 'classifier', backbone, *[None] * 8)
    assert preprocessing(found) == View(img_size, crop_pct, 'bicubic', crop_mode)
    assert preprocessing(found, 64, 0.5, 'bilinear', 'center') == View(64, 0.5, 'bilinear', 'center')


@pytest.mark.slow
def test_as_a_user_types_it(classifier, tmp_path):
    tool = tiny.TOOLS / 'model_converters' / 'published_to_mmvim.py'
    (tmp_path / 'page.pth').write_text('<!DOCTYPE html><html>')
    result = tiny.run(sys.executable, tool, tmp_path / 'page.pth', '--check', cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count('\n')) == (1, '', 1)
    assert result.stderr.startswith('error: ') and 'is a web page' in result.stderr
