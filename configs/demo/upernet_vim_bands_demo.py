"""A small Vim under UperNet on demo scenes of five bands: red, green, blue, near infrared, thermal, 12 bits each.

The scenes come from ``demo/make_scenes.py --bands 5 --out data/demo_bands`` of mmvim's repository. docs/many_bands.md
says what is to be changed for other sets of bands.
"""
_base_ = './upernet_vim_demo.py'

# Model: weights for 3 bands start it too, by init_cfg=dict(type='Pretrained', checkpoint=..., channel_change='repeat')
model = dict(
    data_preprocessor=dict(
        _delete_=True,
        type='mmvim.SegBandsPreprocessor',
        # Of the training scenes, band by band
        mean=[1914, 1949, 1707, 1193, 1553],
        std=[879, 798, 984, 700, 808],
        size=(128, 192),
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(in_channels=5))

# Data: the same scenes and annotations, whose pictures are arrays
data_root = 'data/demo_bands/ADEChallengeData2016'
train_pipeline = [
    dict(type='mmvim.LoadImageBands'),
    dict(type='LoadAnnotations', _scope_='mmseg'),
    dict(type='RandomFlip', prob=0.5, _scope_='mmseg'),
    dict(type='PackSegInputs', _scope_='mmseg'),
]
test_pipeline = [
    dict(type='mmvim.LoadImageBands'),
    dict(type='LoadAnnotations', _scope_='mmseg'),
    dict(type='PackSegInputs', _scope_='mmseg'),
]
train_dataloader = dict(dataset=dict(
    data_root=data_root,
    img_suffix='.npy',
    data_prefix=dict(img_path='bands/training', seg_map_path='annotations/training'),
    pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(
    data_root=data_root,
    img_suffix='.npy',
    data_prefix=dict(img_path='bands/validation', seg_map_path='annotations/validation'),
    pipeline=test_pipeline))
test_dataloader = val_dataloader

# Drawn in false colours, as such pictures usually are: near infrared as red, so that plants stand out
default_hooks = dict(visualization=dict(_delete_=True, type='mmvim.BandsVisualizationHook', bands=(3, 0, 1)))
custom_hooks = [dict(type='mmvim.ProgressBarHook'), dict(type='mmvim.ValLossHook')]
