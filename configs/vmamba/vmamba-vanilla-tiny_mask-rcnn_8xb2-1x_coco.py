"""Mask R-CNN with FPN on Vanilla-VMamba-T, 12 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-1x_coco.py'

# The published config names no drop_path_rate and inherits Swin's
model = dict(backbone=dict(arch='vanilla-tiny', drop_path_rate=0.2))
