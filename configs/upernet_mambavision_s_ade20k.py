"""UperNet on MambaVision-S, ADE20K."""
_base_ = './mambavision/mambavision-small_upernet_8xb2-amp-160k_ade20k-512x512.py'
