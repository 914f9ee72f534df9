"""UperNet on MambaVision-T, ADE20K."""
_base_ = './mambavision/mambavision-tiny_upernet_16xb1-amp-160k_ade20k-512x512.py'
