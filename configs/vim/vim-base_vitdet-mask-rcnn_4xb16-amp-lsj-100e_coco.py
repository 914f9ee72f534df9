"""ViTDet with Mask R-CNN on Vim-B."""
_base_ = './vim-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=768))
