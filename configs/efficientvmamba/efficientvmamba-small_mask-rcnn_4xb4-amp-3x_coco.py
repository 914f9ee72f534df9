"""Mask R-CNN with FPN on EfficientVMamba-S, 36 epochs at several scales."""
_base_ = './efficientvmamba-tiny_mask-rcnn_4xb4-amp-3x_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=[64, 128, 256, 512]))
