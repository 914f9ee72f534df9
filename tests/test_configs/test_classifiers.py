"""Configs of MMPreTrain's ImageClassifier: the published recipe and a step of it."""

import importlib

import cv2
import numpy as np
import pytest
import torch
from checkout import config_files, is_classifier
from families import FAMILY_CASES, family_of, narrow_backbone
from family_cases.base import scaled
from mmengine.registry import MODELS
from mmengine.runner import Runner
from names_of_torchvision import torchvision_or_its_names

from mmvim.engine.hooks import MESAHook, ValLossHook

SIDE = 64  # of the small images, where the recipes have 224
FIGURES = {file: figures for case in FAMILY_CASES.values() for file, figures in case.classifiers.items()}


def test_every_recipe_has_its_figures():
    assert sorted(FIGURES) == [f for f in config_files() if is_classifier(f)]


def test_published_recipe(classifier_config, load):
    cfg = load(classifier_config)
    optimizer = cfg.optim_wrapper.optimizer
    warmup, cosine = cfg.param_scheduler
    figures = FIGURES[classifier_config]
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == (
        figures.optimizer,
        figures.lr,
        figures.weight_decay,
    )
    assert (cfg.auto_scale_lr.base_batch_size, warmup.end) == (figures.batch, figures.warmup)
    assert cfg.model.backbone.drop_path_rate == figures.drop_path
    assert cfg.test_dataloader.dataset.pipeline[1].scale == figures.side
    assert cfg.train_cfg.max_epochs == cosine.end == 300 and cosine.begin == warmup.end
    assert cosine.type == 'CosineAnnealingLR'
    assert cfg.model.head.loss.type == 'LabelSmoothLoss' and cfg.model.head.loss.label_smooth_val == 0.1
    assert {a.type: a.alpha for a in cfg.model.train_cfg.augments} == {'Mixup': 0.8, 'CutMix': 1.0}
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    assert 'init_cfg' not in cfg.model.backbone, 'training needs no network'


def test_scopes_are_named(classifier_config, load):
    """Read through ``mmvim::``, an outermost dict with a type and no scope gets mmvim's."""
    cfg = load(classifier_config)
    nodes = [cfg.model, cfg.visualizer, cfg.default_hooks.visualization, cfg.val_evaluator, cfg.test_evaluator]
    nodes += [cfg[f'{stage}_dataloader'].dataset for stage in ('train', 'val', 'test')]
    assert {node.get('_scope_') for node in nodes} == {'mmpretrain'}


@pytest.mark.slow
def test_the_file_of_the_config(classifier_config, load):
    """The published classifier has the backbone that `read` tells of it."""
    from mmvim import checkpoints

    cfg = load(classifier_config)
    backbone = MODELS.build(cfg.model.backbone)
    layers = torch.nn.Linear(cfg.model.head.in_channels, 1000).state_dict(prefix='head.')
    container = {'model': {**backbone.state_dict(), **layers}}
    weights, report = checkpoints.model_weights(container, 'file')
    assert set(weights) == {f'backbone.{k}' for k in backbone.state_dict()} | {'head.fc.weight', 'head.fc.bias'}
    assert not report.dropped


@pytest.fixture(scope='module')
def mmpretrain():
    pytest.importorskip('mmpretrain')
    with torchvision_or_its_names():
        importlib.import_module('mmpretrain.utils').register_all_modules(init_default_scope=False)


def small(cfg, folder):
    """The config, narrow, for one epoch of two steps on noise written in ImageNet's folders."""
    cfg.model.head.in_channels = narrow_backbone(cfg.model.backbone, SIDE / 224, shallow=True)[-1]
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('n01440764', 'n01443537'):
            pictures = folder / 'imagenet' / split / name
            pictures.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(pictures / f'{i}.png'), rng.integers(0, 256, (80, 96, 3), dtype=np.uint8))
    for stage in ('train', 'val', 'test'):
        loader = cfg[f'{stage}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(folder / 'imagenet'), metainfo={'classes': ('a', 'b')})
        for transform in loader.dataset.pipeline:
            for key in {'scale', 'crop_size'} & set(transform):
                transform[key] = scaled(transform[key], SIDE / 224)
    cfg.train_cfg.update(max_epochs=1)
    for hook in cfg.get('custom_hooks', ()):
        hook.begin_epoch = 0
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # needs a GPU
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale', None)
    cfg.work_dir, cfg.experiment_name = str(folder / 'work'), folder.name
    return cfg


@pytest.mark.slow
def test_one_step(classifier_config, load, tmp_path, mmpretrain):
    """Pictures, augmentation, model, optimizer, schedule, checkpoint and metric are MMPreTrain's own."""
    runner = Runner.from_cfg(small(load(classifier_config), tmp_path))
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    assert runner.iter == 2
    mesa = [hook for hook in runner.hooks if isinstance(hook, MESAHook)]
    figures = FIGURES[classifier_config]
    assert len(mesa) == figures.mesa
    assert ('train/loss_mesa' in runner.message_hub.log_scalars) == bool(mesa)
    assert type(runner.optim_wrapper.optimizer).__name__ == figures.optimizer
    after = runner.model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(before['head.fc.weight'], after['head.fc.weight'])
    assert 0 <= runner.test()['accuracy/top1'] <= 100


@pytest.mark.slow
def test_a_published_classifier_sees_the_same(classifier_config, load, tmp_path, mmpretrain):
    """A publisher's file under ImageClassifier gives the logits that tools/classify.py has, pictures included."""
    from mmvim import checkpoints

    cfg = small(load(classifier_config), tmp_path)
    options = {name: cfg.model.backbone[name] for name in family_of(cfg.model.backbone).read_options}
    backbone = MODELS.build(cfg.model.backbone)
    head = torch.nn.Linear(cfg.model.head.in_channels, 1000)
    file = str(tmp_path / 'published.pth')
    torch.save({'model': {**backbone.state_dict(), **head.state_dict(prefix='head.')}}, file)

    cfg.load_from = checkpoints.PUBLISHED + file
    runner = Runner.from_cfg(cfg)
    runner.test()
    found = checkpoints.read(file, arch=cfg.model.backbone.arch, **options)
    classifier = checkpoints.build_classifier(found)
    resized, cropped = (cfg.test_dataloader.dataset.pipeline[i] for i in (1, 2))
    view = checkpoints.preprocessing(found, crop_pct=cropped.crop_size / resized.scale)
    assert view.img_size == SIDE
    seen = 0
    for batch in runner.test_dataloader:
        data = runner.model.data_preprocessor(batch, False)
        pictures = torch.stack([view(checkpoints.read_picture(sample.img_path)) for sample in data['data_samples']])
        with torch.no_grad():
            assert torch.allclose(runner.model(data['inputs'], mode='tensor'), classifier(pictures), atol=1e-5)
        seen += len(pictures)
    assert seen == 4


@pytest.mark.slow
def test_the_loss_on_the_validation_set(load, tmp_path, mmpretrain):
    """The mean over the pictures of what the head says of each, without Mixup, and a training that stops by it."""
    cfg = small(load('vim/vim-tiny_in1k.py'), tmp_path)
    cfg.train_cfg.update(max_epochs=5, val_interval=1)
    cfg.optim_wrapper.optimizer.lr = 0.0  # so that the loss stays
    cfg.param_scheduler = []
    cfg.custom_hooks = [{'type': 'mmvim.ValLossHook', 'patience': 2}]
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.epoch == 3 and any(isinstance(hook, ValLossHook) for hook in runner.hooks)
    losses = list(runner.message_hub.get_scalar('val/val_loss').data[0])
    model, exact = runner.model.eval(), []
    for item in runner.val_dataloader.dataset:
        data = model.data_preprocessor({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}, False)
        with torch.no_grad():
            scores = model(data['inputs'], mode='tensor')
        scores = scores[0] if isinstance(scores, tuple) else scores
        target = data['data_samples'][0].gt_label
        exact.append(float(torch.nn.functional.cross_entropy(scores, target, label_smoothing=0.1)))
    assert losses == pytest.approx([np.mean(exact)] * 3, rel=1e-4)
