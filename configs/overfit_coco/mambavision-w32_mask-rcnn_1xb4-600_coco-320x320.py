# Mask R-CNN with FPN on a MambaVision of 32 channels.
_base_ = '../_base_/coco_overfit.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.MambaVision', drop_path_rate=0.,
        arch=dict(depths=(1, 1, 4, 2), dim=32, in_dim=16, num_heads=(1, 2, 4, 8), window_sizes=(8, 8, 20, 10))),
    neck=dict(in_channels=[32, 64, 128, 256]))
