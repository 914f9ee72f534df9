"""Cascade Mask R-CNN on MambaVision-S, COCO."""
_base_ = './mambavision/mambavision-small_cascade-mask-rcnn_8xb2-amp-3x_coco.py'
