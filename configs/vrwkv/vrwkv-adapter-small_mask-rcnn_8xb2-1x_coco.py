"""Mask R-CNN on VRWKV-S with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = './vrwkv-adapter-tiny_mask-rcnn_8xb2-1x_coco.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='small',
            drop_path_rate=0.2),
        num_heads=6,
        drop_path_rate=0.2),
    neck=dict(in_channels=[384, 384, 384, 384]))

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
