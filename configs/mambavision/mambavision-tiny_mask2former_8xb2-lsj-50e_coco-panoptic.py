"""Mask2Former on MambaVision-T, panoptic: any head of MMDetection takes a backbone of mmvim by its `_base_` alone.

The recipe is MMDetection's for a ResNet-50; nobody has published this model.
"""
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.MambaVision',
        arch='tiny',
        window_sizes=(8, 8, 64, 32),  # the 64 x 64 and 32 x 32 of a crop of 1024 x 1024
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2),
    panoptic_head=dict(in_channels=[80, 160, 320, 640]))

# The backbone at a tenth of the rate, as in the base; without its decay_mult, which would decay norms and A_log
optim_wrapper = dict(
    constructor='mmvim.LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'query_embed': dict(decay_mult=0.0),
            'query_feat': dict(decay_mult=0.0),
            'level_embed': dict(decay_mult=0.0),
        }))
