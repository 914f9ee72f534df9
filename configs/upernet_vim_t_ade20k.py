"""UperNet on Vim-Ti, ADE20K."""
_base_ = './vim/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'
