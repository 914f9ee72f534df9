"""MambaVision-S on ImageNet-1k under MMPreTrain, MESA included: its training options came with its weights.

    python tools/test.py configs/mambavision/mambavision-small_in1k.py mambavision_small_1k.pth.tar
"""
_base_ = './mambavision-tiny_in1k.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=768))

# Crop pct 0.93: 224 / 0.93
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=240, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# Weight and start, a quarter of the epochs: config.json (July 2024) of nvidia/MambaVision-S-1K on the Hugging Face hub.
# Temperature: MESA's paper. Momentum: MMEngine's; the publisher's could not be verified.
custom_hooks = [dict(type='mmvim.MESAHook', weight=0.5, temperature=5.0, begin_epoch=75, momentum=0.0002)]
