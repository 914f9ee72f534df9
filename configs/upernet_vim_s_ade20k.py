"""UperNet on Vim-S, ADE20K."""
_base_ = './vim/vim-small_upernet_4xb8-60k_ade20k-512x512.py'
