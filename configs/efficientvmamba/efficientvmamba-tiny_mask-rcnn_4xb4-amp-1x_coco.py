"""Mask R-CNN with FPN on EfficientVMamba-T, 12 epochs (README.md in this folder lists what differs from upstream)."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_1x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.EfficientVMamba',
        arch='tiny',
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    neck=dict(in_channels=[48, 96, 192, 384]))

optim_wrapper = dict(type='AmpOptimWrapper')  # as published

# 4 GPUs x 4 images = 16. The backbone's batch norms see the images of one GPU: as many as in the published configs
train_dataloader = dict(batch_size=4)
