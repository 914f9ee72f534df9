"""Mask R-CNN with FPN on VMamba-T[s2l5], 12 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './vmamba-tiny_mask-rcnn_8xb2-1x_coco.py'

model = dict(backbone=dict(arch='tiny-s2l5'))
