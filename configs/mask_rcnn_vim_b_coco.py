"""ViTDet with Mask R-CNN on Vim-B, COCO."""
_base_ = './vim/vim-base_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py'
