"""Plain backbones of every kind, small, and a ViT-Adapter around each."""

import pytest
import torch
from family_cases.base import randomised

from mmvim.registry import MODELS

VIM = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 16, 'depth': 4, 'd_state': 4}, 'img_size': 64}
PLAINMAMBA = {
    'type': 'mmvim.PlainMamba',
    'arch': {'embed_dims': 16, 'depth': 4, 'd_state': 4, 'd_conv': 3, 'stem_dims': 8, 'conv_blocks': (0,)},
    'img_size': 64,
}
LOCALVIM = {
    'type': 'mmvim.LocalVim',
    'arch': {'embed_dims': 16, 'depth': 4, 'd_state': 4, 'directions': ('h', 'v_flip')},
    'img_size': 64,
}
PLAIN = {
    'vim': VIM,
    'vim-middle': {**VIM, 'cls_token': 'middle'},
    'vim-double': {**VIM, 'cls_token': 'double', 'residual_in_fp32': False},
    'vim-rope': {**VIM, 'rope': True},
    'vim-rope-residual': {**VIM, 'rope': True, 'rope_residual': True, 'cls_token': 'head'},
    'localvim': LOCALVIM,
    'plainmamba': PLAINMAMBA,
    'vrwkv': {'type': 'mmvim.VRWKV', 'arch': {'embed_dims': 16, 'depth': 4}, 'img_size': 64},
    'vrwkv-scaled': {
        'type': 'mmvim.VRWKV',
        'arch': {'embed_dims': 16, 'depth': 4, 'post_norm': True, 'key_norm': True, 'layer_scale': 0.5},
    },
}
SMALL = {'num_heads': 2, 'conv_dims': 8}
EACH = pytest.mark.parametrize('plain', PLAIN)


def build(plain='vim', inner=None, **options):
    torch.manual_seed(0)
    config = {'type': 'mmvim.ViTAdapter', 'backbone': {**PLAIN[plain], **(inner or {})}, **SMALL, **options}
    return MODELS.build(config)


def lively(plain='vim', **options):
    """An adapter in evaluation mode and float64, in which every part has an effect."""
    model = build(plain, **options)
    for name, part in model.named_children():
        if name != 'plain':
            randomised(part, seed=len(name))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(('norm.weight', 'gamma')) and not name.startswith('plain'):
                parameter.add_(1)
    return model.double().eval()


def outputs_and_gradients(function, model, x):
    x = x.clone().requires_grad_()
    outputs = function(x)
    generator = torch.Generator().manual_seed(5)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in outputs)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, [x, *parameters.values()])
    return list(outputs), dict(zip(['the image', *parameters], grads, strict=True))
