"""MambaVision-T on ImageNet-1k under MMPreTrain: evaluates the published classifier, trains by the published recipe.

    python tools/test.py configs/mambavision/mambavision-tiny_in1k.py mambavision_tiny_1k.pth.tar

Not in it: MESA, the publisher's regulariser by a moving average, whose weight for T is not known (mmvim.MESAHook, as in
mambavision-small_in1k.py), and the epochs of cool-down. LAMB is for large batches; for smaller ones take
mambavision-tiny_adamw_in1k.py.
"""
_base_ = '../_base_/imagenet_classifier.py'

model = dict(
    type='ImageClassifier',
    _scope_='mmpretrain',
    backbone=dict(
        type='mmvim.MambaVision',
        arch='tiny',
        out_indices=3,
        out_norm=False,
        final_norm=True,
        drop_path_rate=0.2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=640,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments={{_base_.train_augments}}))

# Crop pct 1.0: the shorter side is the network's
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=224, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# LAMB and 4096 images: the paper, version 2, appendix I (and the author, of T, in
# https://github.com/NVlabs/MambaVision/issues/57). Rate, its end, clipping, mixed precision and augmentation: the
# training options in config.json (July 2024) of nvidia/MambaVision-S-1K and L2-1K on the Hugging Face hub, which also
# say 310 epochs, and ten of cool-down; the appendix says a rate of 4e-3. Weight decay: as others describe the published
# configurations. The length of the warm-up could not be verified.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='Lamb', _scope_='mmpretrain', lr=5e-3, weight_decay=0.05),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]

# 32 GPUs x 128 images = 4096
auto_scale_lr = dict(enable=False, base_batch_size=4096)
