"""Cascade Mask R-CNN with FPN on MambaVision-B, the published recipe (README.md in this folder lists what differs)."""
_base_ = './mambavision-tiny_cascade-mask-rcnn_8xb2-amp-3x_coco.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
