"""ViTDet with Cascade Mask R-CNN on LocalVim-S; no figure is published."""
_base_ = './localvim-tiny_vitdet-cascade-mask-rcnn_32xb2-lsj-100e_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=384))

# 64 GPUs x 1 image
train_dataloader = dict(batch_size=1)
