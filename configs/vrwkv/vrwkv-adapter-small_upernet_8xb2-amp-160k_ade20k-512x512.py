"""UperNet on VRWKV-S with a ViT-Adapter, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './vrwkv-adapter-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='small',
            drop_path_rate=0.2),
        num_heads=6,
        drop_path_rate=0.2),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=0.85))  # 0.85 ** 13 = 0.121 at the patch embedding
