"""UperNet on VRWKV-T behind a simple pyramid: mmvim's own recipe, with the published schedule.

The published segmentors have a ViT-Adapter instead (README.md beside this file).
"""
_base_ = __import__('mmvim').bases('mmseg::_base_/models/upernet_beit.py', '../_base_/ade20k_160k.py')

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmvim.VRWKV',
        arch='tiny',
        img_size=224,  # 14 x 14 positions are stored and trained; a crop resizes them to 32 x 32
        out_indices=(2, 5, 8, 11),  # four equal parts of 12 blocks, all of stride 16
        drop_path_rate=0.1),
    neck=dict(embed_dim=192),  # strides 4, 8, 16, 32
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=512, num_classes=150),
    auxiliary_head=dict(in_channels=192, num_classes=150),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(341, 341)))

optim_wrapper = dict(
    type='AmpOptimWrapper',  # float16
    loss_scale=dict(init_scale=512),  # to begin with; it adapts
    optimizer=dict(lr=1.2e-4),
    paramwise_cfg=dict(layer_decay_rate=0.95))  # 0.95 ** 13 = 0.513 at the patch embedding

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
