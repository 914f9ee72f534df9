"""Mask R-CNN with FPN on MSVMamba-N, 36 epochs, the authors' recipe of the other sizes."""
_base_ = './msvmamba-tiny_mask-rcnn_8xb2-3x_coco.py'

model = dict(backbone=dict(arch='nano'), neck=dict(in_channels=[48, 96, 192, 384]))
