"""Mask R-CNN on VRWKV-T with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_1x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.ViTAdapter',
        backbone=dict(
            type='mmvim.VRWKV',
            arch='tiny-scaled',  # T's detectors have layer scales, which start at 1
            img_size=224,  # 14 x 14 positions are stored and trained; every picture resizes them
            drop_path_rate=0.1),
        num_heads=6,
        value_ratio=1.0,
        fuse='last',  # all outputs get the patches after the last group
        drop_path_rate=0.1),  # in all extractors
    neck=dict(in_channels=[192, 192, 192, 192]))
sync_bn = 'torch'  # the adapter's batch norms see all GPUs

optim_wrapper = dict(
    optimizer=dict(lr=2e-4, weight_decay=0.01),
    paramwise_cfg=dict(layer_decay_rate=0.85))  # 0.85 ** 13 = 0.121 at the patch embedding

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
