# ViTDet with Mask R-CNN on a Vim of 128 channels and 6 blocks, everything else as in configs/vim.
_base_ = '../_base_/coco_overfit.py'
model = dict(
    data_preprocessor=dict(pad_size_divisor=320),
    backbone=dict(
        _delete_=True, type='mmvim.Vim', arch=dict(embed_dims=128, depth=6), img_size=320, out_indices=-1, rope=True,
        rope_residual=True),
    neck=dict(_delete_=True, type='mmvim.SimpleFPN', in_channels=128, out_channels=64),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=64, norm_cfg=dict(type='mmvim.LN2d', eps=1e-6)),
        mask_head=dict(norm_cfg=dict(type='mmvim.LN2d', eps=1e-6))))
