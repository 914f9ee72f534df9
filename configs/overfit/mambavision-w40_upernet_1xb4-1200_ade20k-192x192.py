# A MambaVision-T of half the width and of fewer blocks.
_base_ = '../_base_/ade_overfit.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.MambaVision', drop_path_rate=0.,
        arch=dict(depths=(1, 2, 4, 2), dim=40, in_dim=32, num_heads=(2, 4, 8, 16), window_sizes=(8, 8, 16, 8))),
    decode_head=dict(in_channels=[40, 80, 160, 320]))
