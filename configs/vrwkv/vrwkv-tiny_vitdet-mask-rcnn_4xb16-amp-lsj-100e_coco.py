"""ViTDet with Mask R-CNN on VRWKV-T: mmvim's own recipe, on the schedule of Vim's.

Weight decay and layer decay are those of the published detectors, which have a ViT-Adapter instead of the pyramid
(README.md beside this file).
"""
_base_ = '../vim/vim-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.VRWKV',
        arch='tiny',
        img_size=1024,  # 64 x 64 positions are stored and trained; other sizes resize them
        out_indices=-1,  # one map of stride 16
        drop_path_rate=0.1))

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.85))  # 0.85 ** 13 = 0.121 at the patch embedding
