"""Cascade Mask R-CNN on MambaVision-B, COCO."""
_base_ = './mambavision/mambavision-base_cascade-mask-rcnn_8xb2-amp-3x_coco.py'
