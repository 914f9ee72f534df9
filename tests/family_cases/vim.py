"""Vim as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import (
    ClassifierRecipe,
    DetectorRecipe,
    FamilyCase,
    Golden,
    PublishedFile,
    Recipe,
    Variant,
    randomised,
    scaled,
    with_head,
)
from golden.models import Classifier, Pyramid, classifier_name, pyramid_name

from mmvim.models import Vim

SMALL_VIM = {'embed_dims': 16, 'depth': 2, 'd_state': 4}
ALL_FOUR = (5, 11, 17, 23)


def without_record(weights: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Weights as the publisher writes them, who does not say of which grid the positions are."""
    return OrderedDict((name, value) for name, value in weights.items() if name != 'pos_embed_grid')


def published_vim(**settings) -> OrderedDict[str, torch.Tensor]:
    """A classifier with its class token in the middle."""
    model = Vim(SMALL_VIM, cls_token='middle', final_norm=True, **settings)
    return without_record(with_head(model, SMALL_VIM['embed_dims']))


def vim_segmentation() -> OrderedDict[str, torch.Tensor]:
    """The layout of the published dense models: pyramid and unused norm inside the backbone."""
    weights = OrderedDict(randomised(Vim(SMALL_VIM, img_size=64, final_norm=True)).state_dict())
    for name, shape in (
        ('fpn1.0.weight', (16, 16, 2, 2)),
        ('fpn1.0.bias', (16,)),
        ('fpn1.1.weight', (16,)),
        ('fpn1.1.bias', (16,)),
        ('fpn1.1.running_mean', (16,)),
        ('fpn1.1.running_var', (16,)),
        ('fpn1.3.weight', (16, 16, 2, 2)),
        ('fpn1.3.bias', (16,)),
        ('fpn2.0.weight', (16, 16, 2, 2)),
        ('fpn2.0.bias', (16,)),
    ):
        weights[name] = torch.rand(shape)
    weights['fpn1.1.num_batches_tracked'] = torch.tensor(7)
    return without_record(weights)


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    depth = 2 if shallow else Vim.arch_zoo[backbone['arch']]['depth']
    backbone['arch'] = {'embed_dims': 16, 'depth': depth, 'd_state': 4}
    backbone['img_size'] = scaled(backbone.get('img_size', 224), ratio)
    indices = backbone.get('out_indices', -1)
    return [16] * (1 if isinstance(indices, int) else len(indices))


def dense_small(**settings) -> Pyramid:
    return Pyramid(Vim('small', rope=True, rope_residual=True, out_indices=ALL_FOUR, **settings))


VIM = FamilyCase(
    name='vim',
    backbone=Vim,
    arch={'embed_dims': 32, 'depth': 4},
    variants={
        'two': Variant((16, 16), {'img_size': 64, 'out_indices': (1, 3)}),
        'dense-rope': Variant(
            (16, 16, 16, 16),
            {'img_size': 64, 'rope': True, 'rope_residual': True, 'feature': 'mixer', 'out_indices': (0, 1, 2, 3)},
        ),
        'overlap': Variant(
            (8,),
            {'img_size': 64, 'patch_size': 16, 'stride': 8, 'final_norm': True},
            lambda side, stride: -(-(side - 16) // stride) + 1,
        ),
        'middle': Variant((16,), {'img_size': (64, 32), 'cls_token': 'middle', 'rope': True}),
        'head': Variant((16,), {'img_size': 64, 'cls_token': 'head', 'pos_embed': False}),
        'double': Variant(
            (16,),
            {
                'img_size': 64,
                'cls_token': 'double',
                'if_divide_out': False,
                'norm_cfg': {'type': 'LN'},
                'residual_in_fp32': False,
            },
        ),
    },
    tiny={'arch': {'embed_dims': 16, 'depth': 2, 'd_state': 4}, 'img_size': 32, 'out_indices': (0, 1)},
    mixers=(
        {'type': 'mmvim.VimMixer', 'embed_dims': 12},
        {
            'type': 'mmvim.VimMixer',
            'embed_dims': 12,
            'd_state': 4,
            'd_conv': 3,
            'expand': 1,
            'dt_rank': 5,
            'if_divide_out': False,
        },
    ),
    blocks=lambda model: list(model.layers),
    stages=lambda model: list(model.layers),
    undecayed=frozenset({'A_log', 'A_b_log', 'D', 'D_b'}),
    file_arch=SMALL_VIM,
    files={
        'classifier': PublishedFile(published_vim, 'classifier'),
        'segmentation': PublishedFile(vim_segmentation, 'backbone'),
    },
    narrow=narrow,
    dense={'img_size': (48, 80)},
    not_copied=('pos_embed',),
    golden={
        'vim_tiny_cls': Golden(
            lambda: Classifier(Vim('tiny', cls_token='middle', out_type='cls_token', final_norm=True), 192),
            classifier_name,
            classifier=True,
        ),
        'vim_tiny_det': Golden(
            lambda: Vim('tiny', img_size=256, rope=True, rope_residual=True),
            lambda key: None if 'norm_f' in key else key,
        ),
        'vim_tiny_seg': Golden(
            lambda: Pyramid(Vim('tiny', img_size=256, feature='mixer', out_indices=ALL_FOUR)), pyramid_name
        ),
        # What names and shapes cannot tell and is not the published default: the recipe of a config that a script
        # overrides.
        'vim_small_seg': Golden(lambda: dense_small(feature='mixer'), pyramid_name, options={'feature': 'mixer'}),
        'vim_small_seg_residual': Golden(dense_small, pyramid_name),
    },
    classifier={'cls_token': 'middle', 'final_norm': True},
    sizes={'tiny': (7, 0.5), 'small': (26, 0.5), 'base': (98, 0.5)},
    segmentors={  # the folder's README has the sources
        'vim/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py': Recipe(2e-4, 0.1, 0.92, 32),
        'vim/vim-small_upernet_4xb8-60k_ade20k-512x512.py': Recipe(1e-4, 0.05, 0.95, 32),
        'vim/vim-tiny_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
        'vim/vim-small_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
    },
    detectors={
        f'vim/vim-{size}_vitdet-{head}_4xb16-amp-lsj-100e_coco.py': DetectorRecipe(
            1e-4, 0.1, 64, 184375, (163889, 177546), 0.837
        )
        for size in ('tiny', 'small', 'base')
        for head in ('mask-rcnn', 'cascade-mask-rcnn')
    },
    classifiers={
        'vim/vim-tiny_in1k.py': ClassifierRecipe('AdamW', 1e-3, 0.1, 1024, 5, 0.0, 256),
        'vim/vim-small_in1k.py': ClassifierRecipe('AdamW', 1e-3, 0.05, 1024, 5, 0.05, 256),
    },
)
