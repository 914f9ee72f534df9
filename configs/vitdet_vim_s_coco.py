"""ViTDet with Cascade Mask R-CNN on Vim-S, COCO."""
_base_ = './vim/vim-small_vitdet-cascade-mask-rcnn_4xb16-amp-lsj-100e_coco.py'
