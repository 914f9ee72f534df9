"""Mask R-CNN with FPN on LocalVMamba-S, 12 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = './localvmamba-tiny_mask-rcnn_8xb2-amp-1x_coco.py'

model = dict(backbone=dict(arch='small'))
