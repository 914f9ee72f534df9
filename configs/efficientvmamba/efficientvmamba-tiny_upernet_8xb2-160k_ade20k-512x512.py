"""UperNet on EfficientVMamba-T. The authors have published a figure, but neither code nor config: the recipe is that of
VMamba and Swin, and the width of the head the one with which the model has the published 14 M parameters."""
_base_ = __import__('mmvim').bases('mmseg::_base_/models/upernet_swin.py', '../_base_/ade20k_160k.py')

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmvim.EfficientVMamba',
        arch='tiny',
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    decode_head=dict(in_channels=[48, 96, 192, 384], channels=256, num_classes=150),
    auxiliary_head=dict(in_channels=192, num_classes=150))
