"""Mask R-CNN on MambaVision-S, COCO."""
_base_ = './mambavision/mambavision-small_mask-rcnn_8xb2-amp-1x_coco.py'
