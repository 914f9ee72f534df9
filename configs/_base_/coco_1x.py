# What two-stage detectors on hierarchical backbones share: COCO at 1333 x 800, AdamW, and the 12 epochs and steps that
# MMDetection takes with Swin.
_base_ = [
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

# MMDetection's pipelines, with a resizing that leaves even a strip of 1 x 4000 pixels a height
scale = (1333, 800)
backend_args = None
train_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile', backend_args=backend_args),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    # Before resizing, which copies: MMDetection cannot pack a picture one pixel wide that was flipped last
    dict(_scope_='mmdet', type='RandomFlip', prob=0.5),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=scale),
    dict(_scope_='mmdet', type='PackDetInputs'),
]
test_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile', backend_args=backend_args),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=scale),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))  # no layer decay; the constructor's weight-decay rules

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

# 8 GPUs x 2 images = 16
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=16)
