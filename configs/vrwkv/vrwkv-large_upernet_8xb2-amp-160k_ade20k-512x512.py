"""UperNet on VRWKV-L behind a simple pyramid: mmvim's own recipe, with the published schedule."""
_base_ = './vrwkv-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='large',
        img_size=192,  # 12 x 12 positions, the published number, are stored and trained
        out_indices=(5, 11, 17, 23),  # four equal parts of 24 blocks
        drop_path_rate=0.4),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024]),
    auxiliary_head=dict(in_channels=1024))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=0.9))  # 0.9 ** 25 = 0.072 at the patch embedding
