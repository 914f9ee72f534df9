"""UperNet on Vim-S, the schedule of the paper's appendix B, which differs from the published code's."""
_base_ = './vim-small_upernet_4xb8-60k_ade20k-512x512.py'

optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(layer_decay_rate=1.0))  # the appendix names no layer decay

# 160,000 it x 16 img / 20,210 img = 127 epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))

# The appendix gives a batch of 16 images; 8 GPUs x 2 images is the usual way to it
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)
