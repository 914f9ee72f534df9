"""Mask R-CNN with FPN on EfficientVMamba-B, 36 epochs at several scales."""
_base_ = './efficientvmamba-tiny_mask-rcnn_4xb4-amp-3x_coco.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=[96, 192, 384, 768]))
