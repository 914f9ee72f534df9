"""RetinaNet on PlainMamba-L1 with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '../_base_/coco_1x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.ViTAdapter',
        backbone=dict(
            type='mmvim.PlainMamba',
            arch='l1',
            img_size=224,  # 14 x 14 positions are stored and trained; every picture resizes them
            drop_path_rate=0.1),
        num_heads=6,
        fuse='last',
        out_indices=(1, 2, 3),  # strides 8, 16 and 32: RetinaNet has no level of stride 4
        drop_path_rate=0.1),  # in all extractors
    neck=dict(
        in_channels=[192, 192, 192],
        start_level=0,
        add_extra_convs='on_output',
        norm_cfg=dict(type='SyncBN', requires_grad=True)))
sync_bn = 'torch'  # the backbone's batch norms see all GPUs, too

optim_wrapper = dict(
    clip_grad=dict(max_norm=35, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(level_embed=dict(decay_mult=0.0))))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

# Boxes alone
train_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile', backend_args=None),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True),
    # Before resizing, which copies: MMDetection cannot pack a picture one pixel wide that was flipped last
    dict(_scope_='mmdet', type='RandomFlip', prob=0.5),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=(1333, 800)),
    dict(_scope_='mmdet', type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
