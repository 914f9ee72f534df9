"""ViTDet with Mask R-CNN on VRWKV-L: mmvim's own recipe (README.md beside this file)."""
_base_ = './vrwkv-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.4),
    neck=dict(in_channels=1024))
