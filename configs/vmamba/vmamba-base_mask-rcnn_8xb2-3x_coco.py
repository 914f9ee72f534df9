"""Mask R-CNN with FPN on VMamba-B[s2l15], 36 epochs, by the recipe of VMamba-S: no published B trained so long."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-3x_coco.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.6), neck=dict(in_channels=[128, 256, 512, 1024]))
