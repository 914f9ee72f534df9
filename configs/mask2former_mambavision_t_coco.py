"""Mask2Former on MambaVision-T, COCO panoptic."""
_base_ = './mambavision/mambavision-tiny_mask2former_8xb2-lsj-50e_coco-panoptic.py'
