"""UperNet on Vim-S, the recipe of the published code (README.md beside this file lists what is corrected)."""
_base_ = './vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small', feature='residual', rope=True, rope_residual=True),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384))

optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.95))  # 0.95 ** 25 = 0.277 at the patch embedding
