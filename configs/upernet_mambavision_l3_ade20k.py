"""UperNet on MambaVision-L3, ADE20K."""
_base_ = './mambavision/mambavision-large3_upernet_16xb1-160k_ade20k-640x640.py'
