"""UperNet on MambaVision-B, ADE20K."""
_base_ = './mambavision/mambavision-base_upernet_16xb1-amp-160k_ade20k-512x512.py'
