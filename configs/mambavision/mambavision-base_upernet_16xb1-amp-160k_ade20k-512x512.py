"""UperNet on MambaVision-B, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './mambavision-tiny_upernet_16xb1-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='base'),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
