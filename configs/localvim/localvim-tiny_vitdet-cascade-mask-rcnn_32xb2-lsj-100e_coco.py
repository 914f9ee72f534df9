"""ViTDet with Cascade Mask R-CNN on LocalVim-T, as the paper says (README.md beside this file lists what differs)."""
_base_ = '../vim/vim-tiny_vitdet-cascade-mask-rcnn_4xb16-amp-lsj-100e_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.LocalVim',
        arch='tiny',
        img_size=1024,  # 64 x 64 positions are stored and trained; other sizes resize them
        out_indices=19,  # one map of stride 16
        drop_path_rate=0.1))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.7),
    clip_grad=dict(max_norm=35, norm_type=2))

# 32 GPUs x 2 images = 64
train_dataloader = dict(batch_size=2)
