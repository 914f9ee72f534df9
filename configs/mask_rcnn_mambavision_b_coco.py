"""Mask R-CNN on MambaVision-B, COCO."""
_base_ = './mambavision/mambavision-base_mask-rcnn_8xb2-amp-1x_coco.py'
