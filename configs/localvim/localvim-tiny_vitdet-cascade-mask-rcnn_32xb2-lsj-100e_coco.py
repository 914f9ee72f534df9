"""ViTDet with Cascade Mask R-CNN on LocalVim-T, as the paper says (README.md beside this file lists what differs)."""
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', '../_base_/coco_lsj-100e_vitdet.py']

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
    rpn_head=dict(num_convs=2, loss_bbox=dict(_delete_=True, type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        # detectron2 adds the stages' losses and passes a third of their gradient on to the features. AdamW's step does
        # not depend on the size of a head's own gradient, so a third of each loss is the same.
        stage_loss_weights=[1 / 3, 1 / 3, 1 / 3],
        bbox_head=[
            dict(
                type='Shared4Conv1FCBBoxHead',
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                norm_cfg=dict(type='mmvim.LN2d', eps=1e-6),
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[xy, xy, wh, wh]),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0))
            for xy, wh in ((1 / 10, 1 / 5), (1 / 20, 1 / 10), (1 / 30, 1 / 15))
        ],
        mask_head=dict(norm_cfg=dict(type='mmvim.LN2d', eps=1e-6))),
    train_cfg=dict(rpn=dict(allowed_border=-1), rpn_proposal=dict(max_per_img=1000)))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.7),
    clip_grad=dict(max_norm=35, norm_type=2))

# 32 GPUs x 2 images = 64
train_dataloader = dict(batch_size=2)
