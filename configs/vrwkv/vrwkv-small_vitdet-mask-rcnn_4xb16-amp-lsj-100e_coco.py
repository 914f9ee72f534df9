"""ViTDet with Mask R-CNN on VRWKV-S: mmvim's own recipe (README.md beside this file)."""
_base_ = './vrwkv-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.2),
    neck=dict(in_channels=384))
