"""UperNet on LocalVim-S, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './localvim-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small'),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384))
