"""Mask R-CNN on VRWKV-L with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = './vrwkv-adapter-tiny_mask-rcnn_8xb2-1x_coco.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='large',
            img_size=192,  # 12 x 12 positions, as in its pre-training
            drop_path_rate=0.4),
        num_heads=16,
        value_ratio=0.5,
        drop_path_rate=0.4),
    neck=dict(in_channels=[1024, 1024, 1024, 1024]))

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
# Twice the depth: 0.85 ** 25 = 0.017 at the patch embedding
