# What the Mask R-CNNs of configs/mambavision share: mixed precision, as in the published cascades.
_base_ = './coco_1x.py'

optim_wrapper = dict(type='AmpOptimWrapper')
