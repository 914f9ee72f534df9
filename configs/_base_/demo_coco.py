# What the three models of demo_coco share: the demo scenes in COCO's layout, recipe and budget. Scenes of 128 x 192
# pixels are shown at one and a half times their size.
_base_ = './small_mask_rcnn.py'

data_root = 'data/demo/coco/'
scale = (288, 192)
metainfo = dict(classes=('person', 'car', 'boat', 'stop sign', 'dog', 'horse', 'sheep', 'cow', 'sports ball'))
model = dict(roi_head=dict(bbox_head=dict(num_classes=9), mask_head=dict(num_classes=9)))
train_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile'),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='RandomFlip', prob=0.5),
    dict(_scope_='mmdet', type='RandomResize', scale=scale, ratio_range=(0.7, 1.4),
         resize_type='mmvim.KeepRatioResize'),
    dict(_scope_='mmdet', type='RandomCrop', crop_type='absolute', crop_size=(192, 288), recompute_bbox=True,
         allow_negative_crop=True),
    dict(_scope_='mmdet', type='FilterAnnotations', min_gt_bbox_wh=(2, 2), by_mask=True, keep_empty=False),
    dict(_scope_='mmdet', type='PackDetInputs'),
]
test_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile'),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=scale),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(_scope_='mmdet', type='CocoDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(dataset=dict(
    dataset, ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(
    dataset, ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'), test_mode=True,
    pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    _scope_='mmdet', type='CocoMetric', ann_file=data_root + 'annotations/instances_val2017.json',
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# 1200 it x 4 pictures / 400 scenes = 12 epochs
max_iters, warmup = 1200, 40
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup, end=max_iters, eta_min=0.),
]
default_hooks = dict(checkpoint=dict(interval=max_iters))
