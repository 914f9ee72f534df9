"""UperNet on MSVMamba-M, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './msvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='micro', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
