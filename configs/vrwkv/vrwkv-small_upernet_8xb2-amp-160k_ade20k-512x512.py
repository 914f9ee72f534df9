"""UperNet on VRWKV-S behind a simple pyramid: mmvim's own recipe, with the published schedule."""
_base_ = './vrwkv-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=0.85))  # 0.85 ** 13 = 0.121 at the patch embedding
