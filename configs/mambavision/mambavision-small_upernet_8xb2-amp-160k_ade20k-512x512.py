"""UperNet on MambaVision-S, the published recipe (README.md beside this file lists what is corrected)."""
_base_ = './mambavision-tiny_upernet_16xb1-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        # The 32 x 32 tokens of a crop are padded to 160 x 160: 25,600 tokens, 4 % of them image
        window_sizes=(8, 8, 160, 56)),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))

optim_wrapper = dict(optimizer=dict(lr=6e-5))

# 8 GPUs x 2 images = 16
train_dataloader = dict(batch_size=2)
