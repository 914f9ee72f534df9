"""Mask R-CNN with FPN on Vanilla-VMamba-B, 12 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-1x_coco.py'

# The published config names no drop_path_rate and inherits Swin's
model = dict(backbone=dict(arch='vanilla-base', drop_path_rate=0.2), neck=dict(in_channels=[128, 256, 512, 1024]))

# 16 GPUs x 1 image = 16
train_dataloader = dict(batch_size=1)
