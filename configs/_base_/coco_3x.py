# As coco_1x.py, but 36 epochs, and pictures of several scales.
_base_ = './coco_1x.py'

# Several scales, in half of the cases of a crop: the pipeline that MMDetection has for Swin
backend_args = None
resize = 'mmvim.KeepRatioResize'
scales = [(short, 1333) for short in range(480, 801, 32)]
train_pipeline = [
    dict(_scope_='mmdet', type='LoadImageFromFile', backend_args=backend_args),
    dict(_scope_='mmdet', type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(_scope_='mmdet', type='RandomFlip', prob=0.5),
    dict(_scope_='mmdet', type='RandomChoice', transforms=[
        [dict(type='RandomChoiceResize', scales=scales, resize_type=resize)],
        [dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], resize_type=resize),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
         dict(type='RandomChoiceResize', scales=scales, resize_type=resize)],
    ]),
    dict(_scope_='mmdet', type='PackDetInputs'),
]

# 36 epochs, named 3x
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
