"""ViTDet with Cascade Mask R-CNN on Vim-B, COCO."""
_base_ = './vim/vim-base_vitdet-cascade-mask-rcnn_4xb16-amp-lsj-100e_coco.py'
