"""Cascade Mask R-CNN with FPN on MambaVision-T, the published recipe (README.md in this folder lists what differs)."""
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', '../_base_/coco_3x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.MambaVision',
        arch='tiny',
        # Stages 3 and 4 see one window, larger than the 84 x 50 and 42 x 25 of an image of 1333 x 800
        window_sizes=(8, 8, 112, 56),
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    neck=dict(in_channels=[80, 160, 320, 640]),
    roi_head=dict(bbox_head=[
        dict(
            type='ConvFCBBoxHead',
            num_shared_convs=4,
            num_shared_fcs=1,
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            norm_cfg=dict(type='SyncBN', requires_grad=True),
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[xy, xy, wh, wh]),
            reg_class_agnostic=False,
            reg_decoded_bbox=True,  # the loss compares boxes, not offsets
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0))
        for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
    ]))

optim_wrapper = dict(type='AmpOptimWrapper')
