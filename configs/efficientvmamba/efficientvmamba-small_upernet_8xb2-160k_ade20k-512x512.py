"""UperNet on EfficientVMamba-S, by the recipe of VMamba and Swin, with the published 29 M parameters."""
_base_ = './efficientvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small'),
    decode_head=dict(in_channels=[64, 128, 256, 512], channels=384),
    auxiliary_head=dict(in_channels=256))
