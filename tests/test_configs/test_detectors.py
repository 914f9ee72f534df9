"""The recipes of detectors say what their names promise and what was published."""

import copy
import re

import pytest
import small_detectors
from checkout import CONFIGS, need
from families import FAMILY_CASES, each
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet')

VITDET = list(FAMILY_CASES['vim'].detectors)
HIERARCHICAL = [file for file in FAMILY_CASES['mambavision'].detectors if 'panoptic' not in file]
PANOPTIC = 'mambavision/mambavision-tiny_mask2former_8xb2-lsj-50e_coco-panoptic.py'
CHANNELS = {'tiny': 192, 'small': 384, 'base': 768}
STDS = [[1 / 10, 1 / 10, 1 / 5, 1 / 5], [1 / 20, 1 / 20, 1 / 10, 1 / 10], [1 / 30, 1 / 30, 1 / 15, 1 / 15]]


def find(pipeline, kind):
    (step,) = [t for t in pipeline if t['type'] == kind]
    return step


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_every_recipe_has_its_figures(family):
    recipes = [f'{family}/{f.name}' for f in (CONFIGS / family).glob('*_coco*.py')]
    assert sorted(recipes) == sorted(FAMILY_CASES[family].detectors)


@pytest.mark.parametrize(('family', 'file'), each('detectors'))
def test_figures(family, file, load):
    cfg, figures = load(file), FAMILY_CASES[family].detectors[file]
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW' and optimizer.betas == (0.9, 0.999)
    assert (optimizer.lr, optimizer.weight_decay) == (figures.lr, figures.weight_decay)
    assert cfg.optim_wrapper.paramwise_cfg.get('layer_decay_rate', 1.0) == figures.layer_decay
    assert cfg.auto_scale_lr.base_batch_size == figures.batch
    assert cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters')) == figures.length
    schedule = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    (steps,) = [part for part in schedule if part.type == 'MultiStepLR']
    assert (tuple(steps.milestones), steps.end, steps.gamma) == (figures.steps, figures.length, 0.1)
    assert steps.by_epoch == ('max_epochs' in cfg.train_cfg)


def test_every_short_entry_is_here(load):
    entries = {f.name for f in CONFIGS.glob('*_coco.py')}
    assert entries == {
        'mask2former_mambavision_t_coco.py',
        *(
            f'{head}_{size}_coco.py'
            for size in 'tsb'
            for head in ('vitdet_vim', 'mask_rcnn_vim', 'cascade_mask_rcnn_mambavision', 'mask_rcnn_mambavision')
        ),
    }
    assert 'cascade' in load('vitdet_vim_t_coco.py').model.roi_head.type.lower()


def test_name_and_batch(detector_recipe, load):
    cfg = load(detector_recipe)
    gpus, images = map(int, re.search(r'_(\d+)xb(\d+)-', detector_recipe).groups())
    assert cfg.default_scope == 'mmdet'
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': gpus * images}
    assert (cfg.optim_wrapper.type == 'AmpOptimWrapper') == ('-amp-' in detector_recipe)
    assert cfg.optim_wrapper.constructor == 'mmvim.LearningRateDecayOptimWrapperConstructor'
    assert 'init_cfg' not in cfg.model.backbone, 'training needs no network'


@pytest.mark.parametrize('file', VITDET)
def test_vitdet(file, load):
    cfg = load(file)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.betas, optimizer.weight_decay) == ('AdamW', 1e-4, (0.9, 0.999), 0.1)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.837
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.train_cfg.max_iters == 184375 and cfg.train_cfg.val_interval == 5000
    assert cfg.train_cfg.max_iters == pytest.approx(100 * 118000 / cfg.auto_scale_lr.base_batch_size)
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.begin, warmup.end) == ('LinearLR', 1e-3, 0, 250)
    assert (steps.type, steps.milestones, steps.gamma) == ('MultiStepLR', [163889, 177546], 0.1)
    assert not warmup.by_epoch and not steps.by_epoch and not cfg.default_hooks.checkpoint.by_epoch

    size = re.search('vim-([a-z]+)_', file).group(1)
    model = cfg.model
    assert model.backbone == {
        'type': 'mmvim.Vim',
        'arch': size,
        'img_size': 1024,
        'out_indices': -1,
        'rope': True,
        'rope_residual': True,
        'drop_path_rate': 0.1,
    }
    assert model.neck.type == 'mmvim.SimpleFPN' and model.neck.in_channels == CHANNELS[size]
    assert model.rpn_head.num_convs == 2 and model.rpn_head.loss_bbox.type == 'L1Loss'
    heads = model.roi_head.bbox_head if 'cascade' in file else [model.roi_head.bbox_head]
    norm = {'type': 'mmvim.LN2d', 'eps': 1e-6}
    for head in heads:
        assert head.type == 'Shared4Conv1FCBBoxHead' and head.norm_cfg == norm and head.loss_bbox.type == 'L1Loss'
        assert head.conv_out_channels == 256 and head.fc_out_channels == 1024
        assert head.reg_class_agnostic == ('cascade' in file)
    if 'cascade' in file:
        assert [list(head.bbox_coder.target_stds) for head in heads] == STDS
        assert [stage.assigner.pos_iou_thr for stage in model.train_cfg.rcnn] == [0.5, 0.6, 0.7]
    assert model.roi_head.mask_head.norm_cfg == norm
    assert model.train_cfg.rpn.allowed_border == -1
    assert model.train_cfg.rpn_proposal.max_per_img == model.test_cfg.rpn.max_per_img == 1000
    assert model.train_cfg.rpn_proposal.nms_pre == 2000


@pytest.mark.parametrize('file', VITDET)
def test_large_scale_jittering(file, load):
    cfg = load(file)
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
    resize, crop = find(train, 'RandomResize'), find(train, 'RandomCrop')
    assert (resize.scale, resize.ratio_range) == ((1024, 1024), (0.1, 2.0))
    assert (crop.crop_type, crop.crop_size, crop.recompute_bbox) == ('absolute', (1024, 1024), True)
    assert find(train, 'RandomFlip').prob == 0.5
    assert find(test, 'mmvim.KeepRatioResize').scale == (1024, 1024)
    assert not any(t['type'] == 'Pad' for t in [*train, *test]), 'padding comes after normalising'
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.pad_size_divisor == 1024 and preprocessor.get('pad_value', 0) == 0 and preprocessor.pad_mask
    assert cfg.val_dataloader.dataset.pipeline == test


@pytest.mark.parametrize('file', HIERARCHICAL)
def test_mambavision(file, load):
    need('mmdet')
    cfg = load(file)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.betas, optimizer.weight_decay) == ('AdamW', (0.9, 0.999), 0.05)
    assert optimizer.lr == (2e-4 if '-base_' in file else 1e-4)
    epochs, milestones = (36, [27, 33]) if '-3x_' in file else (12, [8, 11])
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == epochs
    assert cfg.param_scheduler[1].milestones == milestones and cfg.param_scheduler[1].by_epoch
    backbone = cfg.model.backbone
    assert backbone.window_sizes == (8, 8, 112, 56) and backbone.drop_path_rate == 0.2
    init_default_scope('mmdet')
    assert tuple(cfg.model.neck.in_channels) == tuple(
        MODELS.build({**copy.deepcopy(backbone), 'arch': {**small(backbone.arch)}}).dims
    )
    if 'cascade' in file:
        for head in cfg.model.roi_head.bbox_head:
            assert (head.num_shared_convs, head.num_shared_fcs, head.norm_cfg.type) == (4, 1, 'SyncBN')
            assert head.reg_decoded_bbox and (head.loss_bbox.type, head.loss_bbox.loss_weight) == ('GIoULoss', 10.0)
        assert find(cfg.train_dataloader.dataset.pipeline, 'RandomChoice').transforms[0][0].scales[-1] == (800, 1333)
    else:
        assert find(cfg.train_dataloader.dataset.pipeline, 'mmvim.KeepRatioResize').scale == (1333, 800)
    assert find(cfg.test_dataloader.dataset.pipeline, 'mmvim.KeepRatioResize').scale == (1333, 800)
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline


def resizings(node):
    """Every transform below a node that resizes, by itself or with a transform of its own."""
    if isinstance(node, dict):
        if 'Resize' in str(node.get('type')):
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from resizings(item)


def test_no_resizing_leaves_a_side_of_nothing(box_detector_recipe, load):
    cfg = load(box_detector_recipe)
    for part in ('train', 'val', 'test'):
        found = list(resizings(cfg[f'{part}_dataloader'].dataset.pipeline))
        assert found and all('mmvim.KeepRatioResize' in (step.type, step.get('resize_type')) for step in found)


def small(arch: str) -> dict:
    """The architecture with one block a level; its widths are the question."""
    from mmvim.models import MambaVision

    return {**MambaVision.arch_zoo[arch], 'depths': (1, 1, 1, 1)}


def test_mask2former_is_its_base_with_another_backbone(load):
    cfg = load(PANOPTIC)
    assert cfg.model.type == 'Mask2Former' and cfg.model.backbone.type == 'mmvim.MambaVision'
    assert cfg.train_cfg.max_iters == 368750
    custom = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert custom.backbone == {'lr_mult': 0.1}, 'decay_mult would decay norms and A_log of the backbone'


OWN_CLASSES = """
_base_ = 'mmvim::{base}'

classes = ('person', 'car', 'dog')
data_root = 'data/street/'
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root, metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
model = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))
"""


@pytest.fixture(scope='module')
def repository(tmp_path_factory, read_as_installed):
    """A user's configs on mmvim's, read in a process of their own in which mmvim is installed."""
    root, bases = tmp_path_factory.mktemp('repository'), [VITDET[0], HIERARCHICAL[0]]
    files = [root / f'own{i}.py' for i in range(len(bases))]
    for file, base in zip(files, bases, strict=True):
        file.write_text(OWN_CLASSES.format(base=base))
    return read_as_installed(files)


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_one_step_from_a_users_config(index, repository, tmp_path):
    from mmengine.config import Config
    from mmengine.runner import Runner

    from scenes import DemoSceneParams, write_demo_scenes

    pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')
    cfg = Config(repository[index])
    assert cfg.train_dataloader.dataset.data_root == cfg.test_dataloader.dataset.data_root == 'data/street/'
    assert cfg.optim_wrapper['_scope_'] == 'mmvim', 'read through mmvim::, where every scope must resolve'
    write_demo_scenes(tmp_path / 'demo', DemoSceneParams(train=4, val=1, size=(96, 128)))
    cfg = small_detectors.shrink(cfg, tmp_path / 'demo/coco', tmp_path / 'work', shallow=True)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1 and runner.model.roi_head.bbox_head.num_classes == 3
