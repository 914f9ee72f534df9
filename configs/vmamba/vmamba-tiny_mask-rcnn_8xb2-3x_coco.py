"""Mask R-CNN with FPN on VMamba-T[s1l8], 36 epochs, the published recipe (README.md lists what is corrected)."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_3x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.VMamba',
        arch='tiny',
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]))
