"""UperNet on VRWKV-B with a ViT-Adapter, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './vrwkv-adapter-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='base',
            drop_path_rate=0.3),
        num_heads=12,
        value_ratio=0.5,
        drop_path_rate=0.3),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=0.8))  # 0.8 ** 13 = 0.055 at the patch embedding
