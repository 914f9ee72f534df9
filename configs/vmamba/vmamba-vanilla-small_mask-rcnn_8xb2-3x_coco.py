"""Mask R-CNN with FPN on Vanilla-VMamba-S, 36 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-3x_coco.py'

# The published config names no drop_path_rate and inherits Swin's
model = dict(backbone=dict(arch='vanilla-small', drop_path_rate=0.2))
