"""Configs of MMPreTrain's ImageClassifier: the published recipe and, where MMPreTrain is installed, a step of it."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner

PUBLISHED = {  # optimizer, lr, weight decay, batch, epochs of warm-up, stochastic depth, side before the crop
    'vim/vim-tiny_in1k.py': ('AdamW', 1e-3, .1, 1024, 5, 0., 256),
    'vim/vim-small_in1k.py': ('AdamW', 1e-3, .05, 1024, 5, .05, 256),
    'mambavision/mambavision-tiny_in1k.py': ('Lamb', 5e-3, .05, 4096, 20, .2, 224),
    'mambavision/mambavision-tiny_adamw_in1k.py': ('AdamW', 1e-3, .05, 1024, 20, .2, 224),
}


def test_published_recipe(classifier_config, load):
    cfg = load(classifier_config)
    optimizer = cfg.optim_wrapper.optimizer
    warmup, cosine = cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay, cfg.auto_scale_lr.base_batch_size, warmup.end,
            cfg.model.backbone.drop_path_rate, cfg.test_dataloader.dataset.pipeline[1].scale) == \
        PUBLISHED[classifier_config]
    assert cfg.train_cfg.max_epochs == cosine.end == 300 and cosine.begin == warmup.end
    assert cosine.type == 'CosineAnnealingLR'
    assert cfg.model.head.loss.type == 'LabelSmoothLoss' and cfg.model.head.loss.label_smooth_val == .1
    assert {a.type: a.alpha for a in cfg.model.train_cfg.augments} == {'Mixup': .8, 'CutMix': 1.}
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
    from mmengine.registry import MODELS

    from mmvim import checkpoints
    cfg = load(classifier_config)
    backbone = MODELS.build(cfg.model.backbone)
    layers = torch.nn.Linear(cfg.model.head.in_channels, 1000).state_dict(prefix='head.')
    container = {'model': {**backbone.state_dict(), **layers}}
    weights, report = checkpoints.model_weights(container, 'file')
    assert set(weights) == {f'backbone.{k}' for k in backbone.state_dict()} | {'head.fc.weight', 'head.fc.bias'}
    assert not report.dropped


def test_one_step(classifier_config, load, tmp_path):
    pytest.importorskip('torchvision', reason='MMPreTrain needs it')
    pytest.importorskip('mmpretrain')
    cfg = load(classifier_config)
    backbone = cfg.model.backbone
    if backbone.type == 'mmvim.Vim':
        backbone.update(arch={'embed_dims': 16, 'depth': 2, 'd_state': 4}, img_size=64)
        channels = 16
    else:
        backbone.update(arch={'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)},
                        window_sizes=(8, 8, 4, 2))
        channels = 64
    cfg.model.head.in_channels = channels
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('n01440764', 'n01443537'):
            folder = tmp_path / 'imagenet' / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(folder / f'{i}.JPEG'), rng.integers(0, 256, (80, 96, 3), dtype=np.uint8))
    for stage in ('train', 'val', 'test'):
        loader = cfg[f'{stage}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(tmp_path / 'imagenet'), metainfo={'classes': ('a', 'b')})
        for transform in loader.dataset.pipeline:
            for key in {'scale', 'crop_size'} & set(transform):
                transform[key] = round(transform[key] * 64 / 224)
    cfg.train_cfg.update(max_epochs=1)
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # needs a GPU
        cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'work'), tmp_path.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 <= runner.test()['accuracy/top1'] <= 100
    assert runner.iter == 2
