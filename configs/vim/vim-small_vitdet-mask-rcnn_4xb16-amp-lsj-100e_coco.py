"""ViTDet with Mask R-CNN on Vim-S."""
_base_ = './vim-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=384))
