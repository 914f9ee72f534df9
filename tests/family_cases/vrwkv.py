"""Vision-RWKV as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import (
    DetectorRecipe,
    FamilyCase,
    Golden,
    PublishedFile,
    Recipe,
    Scan,
    Variant,
    scaled,
    with_head,
)
from torch import nn

from mmvim import models

SMALL = {'embed_dims': 16, 'depth': 4}
LARGE = {**SMALL, 'hidden_rate': 2, 'post_norm': True, 'key_norm': True, 'layer_scale': 0.5}
QUARTERS = (2, 5, 8, 11)


def without_record(weights: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Weights as the publisher writes them, who does not say of which grid the positions are."""
    return OrderedDict((name, value) for name, value in weights.items() if not name.endswith('pos_embed_grid'))


def published(arch: dict = SMALL, **settings) -> OrderedDict[str, torch.Tensor]:
    """A classifier, without the prefix that its publisher puts before the backbone."""
    return without_record(with_head(models.VRWKV(arch, **settings), arch['embed_dims']))


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**models.VRWKV.arch_zoo[backbone['arch']], 'embed_dims': 16}
    backbone['arch'] = {**arch, 'depth': 2} if shallow else arch
    backbone['img_size'] = scaled(backbone.get('img_size', 224), ratio)
    indices = backbone.get('out_indices', -1)
    return [16] * (1 if isinstance(indices, int) else len(indices))


def spoil(model: nn.Module) -> None:
    """Scale the decay of every average by 1.1."""
    found = [p for name, p in model.named_parameters() if name.endswith('.spatial_decay')]
    assert found, 'no parameter is a decay'
    with torch.no_grad():
        for parameter in found:
            parameter *= 1.1


VRWKV = FamilyCase(
    name='vrwkv',
    backbone=models.VRWKV,
    arch=SMALL,
    variants={
        'two': Variant((16, 16), {'img_size': 64, 'out_indices': (1, 3)}),
        'large': Variant((8,), {'arch': LARGE, 'img_size': (64, 32), 'patch_size': 8, 'boundary': 'exact'}),
        'scaled': Variant(
            (16, 16, 16),
            {
                'arch': {**SMALL, 'depth': 3, 'layer_scale': 1.0},
                'img_size': 64,
                'out_indices': (0, 1, 2),
                'final_norm': False,
            },
        ),
    },
    tiny={'arch': {**SMALL, 'depth': 2}, 'img_size': 32, 'out_indices': (0, 1)},
    mixers=(),
    blocks=lambda model: list(model.layers),
    stages=lambda model: list(model.layers),
    undecayed=frozenset({'spatial_decay', 'spatial_first'}),
    file_arch=SMALL,
    files={'classifier': PublishedFile(published, 'classifier')},
    narrow=narrow,
    dense={'img_size': (48, 80), 'out_indices': (0, 1, 2, 3)},
    not_copied=('pos_embed',),
    golden={
        'vrwkv_tiny': Golden(
            lambda: models.VRWKV('tiny', out_indices=QUARTERS),
            lambda key: key,
            options={'out_indices': QUARTERS},
            tolerance=2e-5,
        ),
    },
    sizes={'tiny': (6.2, 0.05), 'small': (23.8, 0.05), 'base': (93.7, 0.06)},  # L's head has a hidden layer
    segmentors={  # mmvim's own, with the optimizer of the authors' segmentors; the folder's README has the sources
        f'vrwkv/vrwkv-{arch}_upernet_8xb2-amp-160k_ade20k-512x512.py': Recipe(lr, 0.01, layer_decay, 16)
        for arch, lr, layer_decay in (
            ('tiny', 1.2e-4, 0.95),
            ('small', 6e-5, 0.85),
            ('base', 6e-5, 0.8),
            ('large', 6e-5, 0.9),
        )
    },
    detectors={
        f'vrwkv/vrwkv-{arch}_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py': DetectorRecipe(
            1e-4, 0.05, 64, 184375, (163889, 177546), 0.85
        )
        for arch in ('tiny', 'small', 'base', 'large')
    },
    spoil=spoil,
    scan=Scan('mmvim::bi_wkv_fwd', 'k', ('decay', 'bonus')),
)
