# A Vim-T in everything but width, depth and patch size.
_base_ = '../_base_/ade_overfit.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.Vim', arch=dict(embed_dims=96, depth=6), img_size=192, patch_size=8,
        out_indices=(1, 2, 3, 5)),
    neck=dict(type='Feature2Pyramid', embed_dim=96, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=[96, 96, 96, 96]))
