"""UperNet on PlainMamba-L1, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = __import__('mmvim').bases('mmseg::_base_/models/upernet_vit-b16_ln_mln.py', '../_base_/ade20k_160k.py')

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmvim.PlainMamba',
        arch='l1',
        img_size=224,  # 14 x 14 positions are stored and trained; a crop resizes them to 32 x 32
        out_indices=(5, 11, 17, 23),  # four equal parts of 24 blocks, all of stride 16
        drop_path_rate=0.1),
    neck=None,  # the heads get four maps of one stride
    decode_head=dict(in_channels=[192, 192, 192, 192], num_classes=150),
    auxiliary_head=dict(in_channels=192, num_classes=150))
sync_bn = 'torch'  # the backbone's batch norms see all GPUs, too

# Tests see pictures whose sides are multiples of 32
test_pipeline = [
    dict(_scope_='mmseg', type='LoadImageFromFile'),
    dict(_scope_='mmseg', type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(_scope_='mmseg', type='ResizeToMultiple', size_divisor=32),
    dict(_scope_='mmseg', type='LoadAnnotations', reduce_zero_label=True),
    dict(_scope_='mmseg', type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
