"""Configs of MMPreTrain's ImageClassifier: the published recipe and a step of it."""

import importlib

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from names_of_torchvision import torchvision_or_its_names

from mmvim.engine.hooks import MESAHook

PUBLISHED = {  # optimizer, lr, weight decay, batch, epochs of warm-up, stochastic depth, side before the crop
    'vim/vim-tiny_in1k.py': ('AdamW', 1e-3, 0.1, 1024, 5, 0.0, 256),
    'vim/vim-small_in1k.py': ('AdamW', 1e-3, 0.05, 1024, 5, 0.05, 256),
    'mambavision/mambavision-tiny_in1k.py': ('Lamb', 5e-3, 0.05, 4096, 20, 0.2, 224),
    'mambavision/mambavision-small_in1k.py': ('Lamb', 5e-3, 0.05, 4096, 20, 0.2, 240),
    'mambavision/mambavision-tiny_adamw_in1k.py': ('AdamW', 1e-3, 0.05, 1024, 20, 0.2, 224),
}


def test_published_recipe(classifier_config, load):
    cfg = load(classifier_config)
    optimizer = cfg.optim_wrapper.optimizer
    warmup, cosine = cfg.param_scheduler
    assert (
        optimizer.type,
        optimizer.lr,
        optimizer.weight_decay,
        cfg.auto_scale_lr.base_batch_size,
        warmup.end,
        cfg.model.backbone.drop_path_rate,
        cfg.test_dataloader.dataset.pipeline[1].scale,
    ) == PUBLISHED[classifier_config]
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
    backbone = cfg.model.backbone
    if backbone.type == 'mmvim.Vim':
        backbone.update(arch={'embed_dims': 16, 'depth': 2, 'd_state': 4}, img_size=64)
        cfg.model.head.in_channels = 16
    else:
        backbone.update(
            arch={'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)}, window_sizes=(8, 8, 4, 2)
        )
        cfg.model.head.in_channels = 64
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
                transform[key] = round(transform[key] * 64 / 224)
    cfg.train_cfg.update(max_epochs=1)
    for hook in cfg.get('custom_hooks', ()):
        hook.begin_epoch = 0
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # needs a GPU
        cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.work_dir, cfg.experiment_name = str(folder / 'work'), folder.name
    return cfg


def test_one_step(classifier_config, load, tmp_path, mmpretrain):
    """Pictures, augmentation, model, optimizer, schedule, checkpoint and metric are MMPreTrain's own."""
    runner = Runner.from_cfg(small(load(classifier_config), tmp_path))
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    assert runner.iter == 2
    mesa = [hook for hook in runner.hooks if isinstance(hook, MESAHook)]
    assert len(mesa) == ('small_in1k' in classifier_config and 'mambavision' in classifier_config)
    assert ('train/loss_mesa' in runner.message_hub.log_scalars) == bool(mesa)
    assert type(runner.optim_wrapper.optimizer).__name__ == PUBLISHED[classifier_config][0]
    after = runner.model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(before['head.fc.weight'], after['head.fc.weight'])
    assert 0 <= runner.test()['accuracy/top1'] <= 100


def test_a_published_classifier_sees_the_same(classifier_config, load, tmp_path, mmpretrain):
    """A publisher's file under ImageClassifier gives the logits that tools/classify.py has, pictures included."""
    from mmvim import checkpoints

    cfg = small(load(classifier_config), tmp_path)
    family = cfg.model.backbone.type
    backbone = MODELS.build(cfg.model.backbone)
    head = torch.nn.Linear(cfg.model.head.in_channels, 1000)
    file = str(tmp_path / 'published.pth')
    torch.save({'model': {**backbone.state_dict(), **head.state_dict(prefix='head.')}}, file)

    cfg.load_from = checkpoints.PUBLISHED + file
    runner = Runner.from_cfg(cfg)
    runner.test()
    options = {} if family == 'mmvim.Vim' else {'window_sizes': cfg.model.backbone.window_sizes}
    found = checkpoints.read(file, arch=cfg.model.backbone.arch, **options)
    classifier = checkpoints.build_classifier(found)
    resized, cropped = (cfg.test_dataloader.dataset.pipeline[i] for i in (1, 2))
    view = checkpoints.preprocessing(found, crop_pct=cropped.crop_size / resized.scale)
    assert view.img_size == 64
    seen = 0
    for batch in runner.test_dataloader:
        data = runner.model.data_preprocessor(batch, False)
        pictures = torch.stack([view(checkpoints.read_picture(sample.img_path)) for sample in data['data_samples']])
        with torch.no_grad():
            assert torch.allclose(runner.model(data['inputs'], mode='tensor'), classifier(pictures), atol=1e-5)
        seen += len(pictures)
    assert seen == 4
