"""UperNet on LocalVMamba-S, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './localvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.2))
optim_wrapper = dict(type='AmpOptimWrapper')  # float16
