"""A small MambaVision under UperNet on the demo scenes: everything but the backbone as in ``upernet_vim_demo.py``."""
_base_ = './upernet_vim_demo.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvim.MambaVision',
        arch=dict(depths=(1, 2, 2, 2), dim=24, in_dim=16, num_heads=(1, 2, 4, 8)),
        # Stages 3 and 4 see one window: 8 x 12 and 4 x 6 cells, padded to squares
        window_sizes=(8, 8, 12, 6),
        drop_path_rate=0.0),
    neck=None,  # it has a pyramid of its own, of strides 4, 8, 16 and 32
    decode_head=dict(in_channels=[24, 48, 96, 192]))
