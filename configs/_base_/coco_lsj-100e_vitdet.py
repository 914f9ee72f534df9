# What the ViTDet configs of configs/vim share: COCO with large-scale jittering at 1024 x 1024, and a schedule of 100
# epochs. MMDetection's own common/lsj-100e_coco-instance.py is another recipe (SGD, tests at 1333 x 800).
_base_ = ['mmdet::_base_/datasets/coco_instance.py', 'mmdet::_base_/default_runtime.py']

image_size = (1024, 1024)
backend_args = None

# An image becomes 0.1 to 2 times the size that fits into the square, then at most the square is cut out of it. Boxes
# are those of what is left of the masks. No padding here: model.data_preprocessor pads with zeros after normalising.
train_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile', backend_args=backend_args),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='RandomFlip', prob=0.5),
    dict(_scope_='mmdet', type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0),
         resize_type='mmvim.KeepRatioResize'),
    dict(_scope_='mmdet', type='RandomCrop', crop_type='absolute', crop_size=image_size, recompute_bbox=True,
         allow_negative_crop=True),
    # A crop in which nothing is left stays: it is background to learn from
    dict(_scope_='mmdet', type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2), by_mask=True, keep_empty=False),
    dict(_scope_='mmdet', type='PackDetInputs'),
]
test_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile', backend_args=backend_args),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=image_size),  # the longer side
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

# 4 GPUs x 16 images = 64
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,  # every image ends as the same square
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=64)

# 100 epochs x 118,000 img / 64 img = 184,375 it
max_iters, interval = 184375, 5000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=interval)  # and after the last
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    # 163,889 = 184,375 x 8 / 9, 177,546 = 184,375 x 26 / 27
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[163889, 177546], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper',  # float16
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.837))  # 0.837 ** 25 = 0.012 at the patch embedding
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=interval, max_keep_ckpts=2, save_best='coco/segm_mAP'))
log_processor = dict(by_epoch=False)
