"""Mask R-CNN with FPN on MambaVision-T, 12 epochs. Nobody has published this one: heads and schedule are those that
MMDetection uses with Swin, the optimizer that of the published cascade."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_1x_mambavision.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.MambaVision',
        arch='tiny',
        # Stages 3 and 4 see one window, larger than the 84 x 50 and 42 x 25 of an image of 1333 x 800
        window_sizes=(8, 8, 112, 56),
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    neck=dict(in_channels=[80, 160, 320, 640]))
