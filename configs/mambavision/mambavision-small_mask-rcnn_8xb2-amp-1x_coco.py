"""Mask R-CNN with FPN on MambaVision-S, 12 epochs."""
_base_ = './mambavision-tiny_mask-rcnn_8xb2-amp-1x_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=[96, 192, 384, 768]))
