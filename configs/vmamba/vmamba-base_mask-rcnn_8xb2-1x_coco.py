"""Mask R-CNN with FPN on VMamba-B[s2l15], 12 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-1x_coco.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.6), neck=dict(in_channels=[128, 256, 512, 1024]))
