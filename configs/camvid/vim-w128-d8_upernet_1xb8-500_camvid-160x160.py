# A Vim of 128 channels and 8 blocks on 8 x 8 patches.
_base_ = '../_base_/camvid_upernet.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.Vim', arch=dict(embed_dims=128, depth=8, d_state=8), img_size=(180, 240),
        patch_size=8, out_indices=(1, 3, 5, 7), drop_path_rate=0.1),
    neck=dict(type='Feature2Pyramid', embed_dim=128, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=[128, 128, 128, 128]),
    auxiliary_head=dict(in_channels=128))
