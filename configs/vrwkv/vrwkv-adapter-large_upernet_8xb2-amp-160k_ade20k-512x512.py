"""UperNet on VRWKV-L with a ViT-Adapter, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './vrwkv-adapter-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        backbone=dict(
            arch='large',
            img_size=192,  # 12 x 12 positions, as in its pre-training
            drop_path_rate=0.4),
        num_heads=16,
        value_ratio=0.5,
        drop_path_rate=0.4),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024]),
    auxiliary_head=dict(in_channels=1024))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(layer_decay_rate=0.9))  # 0.9 ** 25 = 0.072 at the patch embedding
