"""UperNet on EfficientVMamba-B, by the recipe of VMamba and Swin, with the published 65 M parameters."""
_base_ = './efficientvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='base'),
    decode_head=dict(in_channels=[96, 192, 384, 768], channels=512),
    auxiliary_head=dict(in_channels=384))
