"""Vim-Ti on ImageNet-1k under MMPreTrain: evaluates the published classifier, trains by the published recipe.

    python tools/test.py configs/vim/vim-tiny_in1k.py vim_t_midclstok_76p1acc.pth
"""
_base_ = '../_base_/imagenet_classifier.py'

model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',
    backbone=dict(
        type='mmvim.Vim',
        arch='tiny',
        img_size=224,
        cls_token='middle',
        out_type='cls_token',
        final_norm=True,
        drop_path_rate=0.0),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments={{_base_.train_augments}}))

# 5e-4 x 1024 / 512
optim_wrapper = dict(
    type='OptimWrapper',  # full precision, as published
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))  # no layer decay; the constructor's weight-decay rules
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]

# 8 GPUs x 128 images = 1024
auto_scale_lr = dict(enable=False, base_batch_size=1024)
