"""UperNet on Vanilla-VMamba-T, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './vmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

# The published config names no drop_path_rate and inherits Swin's
model = dict(backbone=dict(arch='vanilla-tiny', drop_path_rate=0.3))
