"""Mask R-CNN on MambaVision-T, COCO."""
_base_ = './mambavision/mambavision-tiny_mask-rcnn_8xb2-amp-1x_coco.py'
