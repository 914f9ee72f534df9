"""UperNet on MSVMamba-N, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './msvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.1),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192))
