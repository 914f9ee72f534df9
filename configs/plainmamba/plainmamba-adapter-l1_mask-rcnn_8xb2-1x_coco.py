"""Mask R-CNN on PlainMamba-L1 with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_1x.py']

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
        drop_path_rate=0.1),  # in all extractors
    neck=dict(in_channels=[192, 192, 192, 192], norm_cfg=dict(type='SyncBN', requires_grad=True)),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=dict(type='SyncBN', requires_grad=True))))
sync_bn = 'torch'  # the backbone's batch norms see all GPUs, too

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(level_embed=dict(decay_mult=0.0))))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))  # pictures without objects, too
