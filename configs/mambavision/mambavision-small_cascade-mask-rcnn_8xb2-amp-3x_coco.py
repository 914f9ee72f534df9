"""Cascade Mask R-CNN with FPN on MambaVision-S, the published recipe (README.md in this folder lists what differs)."""
_base_ = './mambavision-tiny_cascade-mask-rcnn_8xb2-amp-3x_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=[96, 192, 384, 768]))
