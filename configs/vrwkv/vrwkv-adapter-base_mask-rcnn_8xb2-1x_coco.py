"""Mask R-CNN on VRWKV-B with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = './vrwkv-adapter-tiny_mask-rcnn_8xb2-1x_coco.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='base',
            drop_path_rate=0.3),
        num_heads=12,
        value_ratio=0.5,
        drop_path_rate=0.3),
    neck=dict(in_channels=[768, 768, 768, 768]))

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
