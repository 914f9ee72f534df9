"""Mask R-CNN with FPN on Vanilla-VMamba-B, 36 epochs, by the recipe of its S: no published B trained so long."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-3x_coco.py'

# as in the published recipe of 12 epochs
model = dict(backbone=dict(arch='vanilla-base', drop_path_rate=0.2), neck=dict(in_channels=[128, 256, 512, 1024]))

# 16 GPUs x 1 image = 16
train_dataloader = dict(batch_size=1)
