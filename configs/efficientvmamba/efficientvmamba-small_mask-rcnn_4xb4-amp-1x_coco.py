"""Mask R-CNN with FPN on EfficientVMamba-S, 12 epochs."""
_base_ = './efficientvmamba-tiny_mask-rcnn_4xb4-amp-1x_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=[64, 128, 256, 512]))
