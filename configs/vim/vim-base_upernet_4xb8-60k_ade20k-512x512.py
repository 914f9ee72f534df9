"""UperNet on Vim-B. Nobody has published a segmentation recipe for Vim-B: this one is mmvim's own, not yet measured.

It is Vim-S's with what larger models of the kind usually get: a smaller learning rate, a steeper layer decay, more
stochastic depth. No rotary embedding: the published Vim-B was pre-trained without one.
"""
_base_ = './vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='base', feature='residual', drop_path_rate=0.2),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768, 768, 768, 768], channels=768),
    auxiliary_head=dict(in_channels=768))

optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.9))  # 0.9 ** 25 = 0.072 at the patch embedding
