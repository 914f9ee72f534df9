"""UperNet on PlainMamba-L3, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './plainmamba-l1_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='l3',
        out_indices=(8, 17, 26, 35),  # four equal parts of 36 blocks
        drop_path_rate=0.3),
    decode_head=dict(in_channels=[448, 448, 448, 448]),
    auxiliary_head=dict(in_channels=448))
