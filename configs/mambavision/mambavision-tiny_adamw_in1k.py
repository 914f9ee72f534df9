"""MambaVision-T on ImageNet-1k by the recipe that vision transformers of its size are trained with: AdamW, 1024 images.

Not the publisher's, whose LAMB at 4096 images is in mambavision-tiny_in1k.py; for eight GPUs instead of 32.
"""
_base_ = './mambavision-tiny_in1k.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]

# 8 GPUs x 128 images = 1024
auto_scale_lr = dict(enable=False, base_batch_size=1024)
