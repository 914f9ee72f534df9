# Memorise 16 COCO pictures: no augmentation, training and evaluation on the same pictures. It shows that data,
# backbone, neck, heads and evaluator fit together down to boxes and masks; it says nothing about generalisation.
_base_ = './small_mask_rcnn.py'

data_root = 'data/coco/'
ann_file = 'annotations/instances_train2017.json'
scale = (320, 320)
train_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile'),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=scale),
    dict(_scope_='mmdet', type='PackDetInputs'),
]
test_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile'),
    dict(_scope_='mmdet', type='mmvim.KeepRatioResize', scale=scale),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(
    _scope_='mmdet', type='CocoDataset', data_root=data_root, ann_file=ann_file, data_prefix=dict(img='train2017/'))
train_dataloader = dict(dataset=dict(dataset, filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(dataset, test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_scope_='mmdet', type='CocoMetric', ann_file=data_root + ann_file, metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# 600 it x 4 pictures / 16 pictures = 150 epochs
max_iters, warmup = 600, 40
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup, end=max_iters, eta_min=0.),
]
optim_wrapper = dict(optimizer=dict(weight_decay=0.01))
default_hooks = dict(checkpoint=dict(interval=max_iters))
