"""Mask R-CNN with FPN on MambaVision-B, 12 epochs."""
_base_ = './mambavision-tiny_mask-rcnn_8xb2-amp-1x_coco.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(optimizer=dict(lr=2e-4))  # as in the published cascade
