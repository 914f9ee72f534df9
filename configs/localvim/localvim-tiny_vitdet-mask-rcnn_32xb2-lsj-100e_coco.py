"""ViTDet with Mask R-CNN on LocalVim-T, as the published config builds it (README.md lists what differs)."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/coco_lsj-100e_vitdet.py']

model = dict(
    # Zeros after normalising, up to a square of 1024, in training and in tests
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        _delete_=True,
        type='mmvim.LocalVim',
        arch='tiny',
        img_size=1024,  # 64 x 64 positions are stored and trained; other sizes resize them
        out_indices=19,  # one map of stride 16
        drop_path_rate=0.1),
    neck=dict(_delete_=True, type='mmvim.SimpleFPN', in_channels=192, out_channels=256, num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=dict(type='mmvim.LN2d', eps=1e-6)),
        mask_head=dict(norm_cfg=dict(type='mmvim.LN2d', eps=1e-6))))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.7),
    clip_grad=dict(max_norm=35, norm_type=2))

# 32 GPUs x 2 images = 64
train_dataloader = dict(batch_size=2)
