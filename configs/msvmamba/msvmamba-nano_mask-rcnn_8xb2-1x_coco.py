"""Mask R-CNN with FPN on MSVMamba-N, 12 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './msvmamba-tiny_mask-rcnn_8xb2-1x_coco.py'

model = dict(backbone=dict(arch='nano'), neck=dict(in_channels=[48, 96, 192, 384]))
