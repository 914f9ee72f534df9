# The attention peer: a plain ViT of 128 channels and 5 blocks on 8 x 8 patches, every token attends to every other.
_base_ = '../_base_/camvid_upernet.py'
model = dict(
    backbone=dict(
        _delete_=True, type='VisionTransformer', img_size=(180, 240), patch_size=8, embed_dims=128, num_layers=5,
        num_heads=4, mlp_ratio=4, with_cls_token=False, out_indices=(1, 2, 3, 4), drop_path_rate=0.1),
    neck=dict(type='Feature2Pyramid', embed_dim=128, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=[128, 128, 128, 128]),
    auxiliary_head=dict(in_channels=128))
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., custom_keys=dict(pos_embed=dict(decay_mult=0.))))
