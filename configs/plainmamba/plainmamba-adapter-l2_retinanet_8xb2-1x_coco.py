"""RetinaNet on PlainMamba-L2 with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = './plainmamba-adapter-l1_retinanet_8xb2-1x_coco.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='l2',
            drop_path_rate=0.2),
        num_heads=6,
        drop_path_rate=0.2),
    neck=dict(in_channels=[384, 384, 384]))
