"""UperNet on MambaVision-L3 at 640 x 640, the published recipe (README.md beside this file lists what is corrected).

In full precision: its authors found mixed precision unstable at this size.
"""
_base_ = __import__('mmvim').bases(
    'mmseg::_base_/models/upernet_swin.py',
    'mmseg::_base_/datasets/ade20k_640x640.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
)

crop_size = (640, 640)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmvim.MambaVision',
        arch='large3',
        # Stages 3 and 4 see one window, larger than the 40 x 40 and 20 x 20 of a crop
        window_sizes=(8, 8, 64, 32),
        out_indices=(0, 1, 2, 3),  # strides 4, 8, 16, 32
        drop_path_rate=0.2),
    decode_head=dict(in_channels=[256, 512, 1024, 2048], num_classes=150),
    auxiliary_head=dict(in_channels=1024, num_classes=150))

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=1.0))  # no layer decay; the constructor's weight-decay rules

# 160,000 it x 16 img / 20,210 img = 127 epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]

# 16 GPUs x 1 image = 16
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(enable=False, base_batch_size=16)
