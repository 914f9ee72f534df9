"""UperNet on LocalVMamba-T, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = __import__('mmvim').bases('mmseg::_base_/models/upernet_swin.py', '../_base_/ade20k_160k.py')

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmvim.LocalVMamba',
        arch='tiny',
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.1),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150))
