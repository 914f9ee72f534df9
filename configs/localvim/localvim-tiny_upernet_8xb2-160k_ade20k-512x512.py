"""UperNet on LocalVim-T, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = __import__('mmvim').bases('mmseg::_base_/models/upernet_vit-b16_ln_mln.py', '../_base_/ade20k_160k.py')

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmvim.LocalVim',
        arch='tiny',
        img_size=512,  # 32 x 32 positions are stored and trained; other sizes resize them
        out_indices=(4, 9, 14, 19),  # four equal parts of 20 blocks, all of stride 16
        drop_path_rate=0.1),
    neck=None,  # the heads get four maps of one stride
    decode_head=dict(in_channels=[192, 192, 192, 192], num_classes=150),
    auxiliary_head=dict(in_channels=192, num_classes=150))
