"""UperNet on Vim-Ti, the recipe of the published code (README.md beside this file lists what is corrected)."""
_base_ = __import__('mmvim').bases(
    'mmseg::_base_/models/upernet_beit.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
)

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmvim.Vim',
        arch='tiny',
        img_size=512,  # 32 x 32 positions are stored and trained; other sizes resize them
        out_indices=(5, 11, 17, 23),  # four equal parts of 24 blocks, all of stride 16
        feature='mixer',  # what a block adds to the stream, not the stream
        drop_path_rate=0.1),
    neck=dict(embed_dim=192),  # strides 4, 8, 16, 32
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=192, num_classes=150),
    auxiliary_head=dict(in_channels=192, num_classes=150),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(341, 341)))

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.92))  # 0.92 ** 25 = 0.124 at the patch embedding

# 60,000 it x 32 img / 20,210 img = 95 epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=60000),
]
train_cfg = dict(max_iters=60000, val_interval=6000)
default_hooks = dict(checkpoint=dict(interval=6000, save_best='mIoU'))

# 4 GPUs x 8 images = 32
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(enable=False, base_batch_size=32)
