"""UperNet on VRWKV-T with a ViT-Adapter, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './vrwkv-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'  # the published optimizer, schedule and tests

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.ViTAdapter',
        backbone=dict(
            type='mmvim.VRWKV',
            arch='tiny-scaled',  # T's segmentors have layer scales, which start at 1
            img_size=224,  # 14 x 14 positions are stored and trained; a crop resizes them to 32 x 32
            drop_path_rate=0.1),
        num_heads=6,
        value_ratio=1.0,
        fuse='groups',  # each output gets the patches after a group of its own
        drop_path_rate=0.1),  # in all extractors
    neck=None)  # the adapter's outputs have strides 4, 8, 16 and 32
sync_bn = 'torch'  # the adapter's batch norms see all GPUs
