# What the UperNets of VMamba, its relatives, LocalVim and PlainMamba share: ADE20K, 160,000 iterations of 16 crops, and
# the optimizer of Swin's and ViT's UperNet, which the authors of all of them took.
_base_ = __import__('mmvim').bases(
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))  # no layer decay; the constructor's weight-decay rules

# 160,000 it x 16 img / 20,210 img = 127 epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]

# 8 GPUs x 2 images = 16
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=16)
