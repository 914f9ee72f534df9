"""ViTDet with Cascade Mask R-CNN on Vim-Ti, COCO."""
_base_ = './vim/vim-tiny_vitdet-cascade-mask-rcnn_4xb16-amp-lsj-100e_coco.py'
