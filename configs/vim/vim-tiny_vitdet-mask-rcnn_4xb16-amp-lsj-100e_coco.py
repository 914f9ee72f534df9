"""ViTDet with Mask R-CNN on Vim-Ti: the heads of ViTDet's Mask R-CNN, the rest as in the published cascade."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_lsj-100e_vitdet.py']

model = dict(
    # Zeros after normalising, up to a square of 1024, in training and in tests
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        _delete_=True,
        type='mmvim.Vim',
        arch='tiny',
        img_size=1024,  # 64 x 64 positions are stored and trained; other sizes resize them
        out_indices=-1,  # one map of stride 16: the stream after the last block, without a norm
        rope=True,
        rope_residual=True,
        drop_path_rate=0.1),
    neck=dict(_delete_=True, type='mmvim.SimpleFPN', in_channels=192, out_channels=256, num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=dict(type='mmvim.LN2d', eps=1e-6)),
        mask_head=dict(norm_cfg=dict(type='mmvim.LN2d', eps=1e-6))))
