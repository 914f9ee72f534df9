"""UperNet on VRWKV-B behind a simple pyramid: mmvim's own recipe, with the published schedule."""
_base_ = './vrwkv-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=0.8))  # 0.8 ** 13 = 0.055 at the patch embedding
