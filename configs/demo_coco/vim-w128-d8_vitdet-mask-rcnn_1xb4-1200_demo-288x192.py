# ViTDet with Mask R-CNN on a Vim of 128 channels and 8 blocks.
_base_ = '../_base_/demo_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.Vim', arch=dict(embed_dims=128, depth=8, d_state=8), img_size=(192, 288),
        out_indices=-1, rope=True, rope_residual=True, drop_path_rate=0.1),
    neck=dict(_delete_=True, type='mmvim.SimpleFPN', in_channels=128, out_channels=64))
