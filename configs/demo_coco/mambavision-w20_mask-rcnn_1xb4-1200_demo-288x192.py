# Mask R-CNN with FPN on a MambaVision of 20 channels. Windows of 18 and 9 cells cover the maps of a scene whole.
_base_ = '../_base_/demo_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.MambaVision', drop_path_rate=0.1,
        arch=dict(depths=(1, 1, 4, 2), dim=20, in_dim=20, num_heads=(1, 2, 4, 8), window_sizes=(8, 8, 18, 9))),
    neck=dict(in_channels=[20, 40, 80, 160]))
