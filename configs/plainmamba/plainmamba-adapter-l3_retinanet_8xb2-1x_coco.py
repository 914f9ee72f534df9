"""RetinaNet on PlainMamba-L3 with a ViT-Adapter, the published recipe (README.md lists what is corrected)."""
_base_ = './plainmamba-adapter-l1_retinanet_8xb2-1x_coco.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='l3',
            drop_path_rate=0.3),
        num_heads=8,
        drop_path_rate=0.3),
    neck=dict(in_channels=[448, 448, 448]))
