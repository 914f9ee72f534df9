# A MambaVision of 20 channels. Windows of 16 and 8 cells cover the maps of a 240 x 180 image whole.
_base_ = '../_base_/camvid_upernet.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmvim.MambaVision', drop_path_rate=0.1,
        arch=dict(depths=(1, 1, 4, 2), dim=20, in_dim=20, num_heads=(1, 2, 4, 8), window_sizes=(8, 8, 16, 8))),
    decode_head=dict(in_channels=[20, 40, 80, 160]),
    auxiliary_head=dict(in_channels=80))
