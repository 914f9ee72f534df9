"""A small Vim under UperNet on the demo scenes: what ``make demo`` trains, from scratch, on a CPU, in minutes.

The scenes come from ``demo/make_scenes.py --out data/demo`` of mmvim's repository.
"""
_base_ = __import__('mmvim').bases(
    'mmseg::_base_/models/upernet_vit-b16_ln_mln.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_20k.py',
)

# Model: 24 x 16 patches of 8 x 8 pixels, 6 blocks
norm_cfg = dict(type='BN', requires_grad=True)
img_size = (128, 192)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=img_size),
    backbone=dict(
        _delete_=True,
        type='mmvim.Vim',
        arch=dict(embed_dims=96, depth=6, d_state=8),
        img_size=img_size,
        patch_size=8,
        out_indices=(1, 3, 4, 5)),
    neck=dict(_delete_=True, type='Feature2Pyramid', embed_dim=96, rescales=[2, 1, 0.5, 0.25], norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[96, 96, 96, 96],
        channels=64,
        num_classes=14,
        norm_cfg=norm_cfg,
        # Learn from what is still wrong: the sky is soon right, and small things would count for nothing beside it
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=2000),
        loss_decode=dict(avg_non_ignore=True)),
    auxiliary_head=None)

# Data: stock ADE20K annotations, of which the scenes use 14 classes
data_root = 'data/demo/ADEChallengeData2016'
metainfo = dict(
    classes=('building', 'sky', 'tree', 'road', 'grass', 'person', 'mountain', 'car', 'sea', 'signboard', 'boat',
             'streetlight', 'ball', 'animal'),
    palette=[[178, 110, 96], [150, 200, 240], [30, 112, 60], [120, 120, 132], [150, 205, 92], [220, 30, 70],
             [128, 98, 152], [30, 40, 170], [24, 120, 190], [250, 215, 40], [255, 255, 255], [20, 20, 24],
             [250, 130, 20], [110, 64, 30]])
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmseg'),
    dict(type='LoadAnnotations', _scope_='mmseg'),
    dict(type='RandomFlip', prob=0.5, _scope_='mmseg'),
    dict(type='PackSegInputs', _scope_='mmseg'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmseg'),
    dict(type='LoadAnnotations', _scope_='mmseg'),
    dict(type='PackSegInputs', _scope_='mmseg'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader

# Schedule: 800 it x 4 img / 400 img = 8 epochs
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0),
    clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=40, _scope_='mmseg'),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=40, end=800, _scope_='mmseg'),
]
train_cfg = dict(max_iters=800, val_interval=200)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=800))
custom_hooks = [dict(type='mmvim.ProgressBarHook')]
env_cfg = dict(cudnn_benchmark=False)
randomness = dict(seed=0)
