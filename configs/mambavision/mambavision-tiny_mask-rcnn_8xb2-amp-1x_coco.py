"""Mask R-CNN with FPN on MambaVision-T, 12 epochs. Nobody has published this one: heads and schedule are those that
MMDetection uses with Swin, the optimizer that of the published cascade."""
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.MambaVision',
        arch='tiny',
        # Stages 3 and 4 see one window, larger than the 84 x 50 and 42 x 25 of an image of 1333 x 800
        window_sizes=(8, 8, 112, 56),
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    neck=dict(in_channels=[80, 160, 320, 640]))

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))  # no layer decay; the constructor's weight-decay rules

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

# 8 GPUs x 2 images = 16
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=16)
