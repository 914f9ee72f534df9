"""Cascade Mask R-CNN on MambaVision-T, COCO."""
_base_ = './mambavision/mambavision-tiny_cascade-mask-rcnn_8xb2-amp-3x_coco.py'
