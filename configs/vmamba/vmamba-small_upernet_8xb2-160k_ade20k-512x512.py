"""UperNet on VMamba-S[s2l15], the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './vmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
