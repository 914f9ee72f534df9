# The convolutional peer: MMDetection's Mask R-CNN with FPN on a ResNet-18 of 20 base channels.
_base_ = '../_base_/demo_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=20, stem_channels=20, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=[20, 40, 80, 160]))
# ResNet has no layer depths; without layer decay the stock constructor gives the same groups
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
