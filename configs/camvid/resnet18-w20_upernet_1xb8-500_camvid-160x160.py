# The convolutional peer: a ResNet-18 of 20 base channels.
_base_ = '../_base_/camvid_upernet.py'
model = dict(
    backbone=dict(depth=18, base_channels=20, stem_channels=20, norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=[20, 40, 80, 160]),
    auxiliary_head=dict(in_channels=80))
# ResNet has no layer depths; without layer decay the stock constructor gives the same groups.
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
