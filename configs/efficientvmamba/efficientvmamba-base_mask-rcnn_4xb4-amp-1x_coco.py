"""Mask R-CNN with FPN on EfficientVMamba-B, 12 epochs."""
_base_ = './efficientvmamba-tiny_mask-rcnn_4xb4-amp-1x_coco.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=[96, 192, 384, 768]))
