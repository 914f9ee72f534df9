"""ViTDet with Mask R-CNN on Vim-S, COCO."""
_base_ = './vim/vim-small_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'
