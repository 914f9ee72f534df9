"""Vim-S on ImageNet-1k under MMPreTrain: evaluates the published classifier, trains by the published recipe.

    python tools/test.py configs/vim/vim-small_in1k.py vim_s_midclstok_80p5acc.pth
"""
_base_ = './vim-tiny_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.05), head=dict(in_channels=384))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
