"""PlainMamba as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import DetectorRecipe, FamilyCase, Golden, PublishedFile, Recipe, Variant, scaled, with_head

from mmvim.models import PlainMamba

SMALL = {'embed_dims': 16, 'depth': 2, 'd_state': 4, 'd_conv': 3, 'stem_dims': 8, 'stem_convs': 1, 'conv_blocks': (0,)}
WIDE = {**SMALL, 'embed_dims': 48, 'd_state': 16}  # wide enough for its scans to show in a new model's output
ALL_FOUR = (5, 11, 17, 23)


def without_record(weights: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Weights as the publisher writes them, who does not say of which grid the positions are."""
    return OrderedDict((name, value) for name, value in weights.items() if not name.endswith('pos_embed_grid'))


def published(**settings) -> OrderedDict[str, torch.Tensor]:
    """A classifier, without the prefix that its publisher puts before the backbone."""
    return without_record(with_head(PlainMamba(SMALL, **settings), SMALL['embed_dims']))


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**PlainMamba.arch_zoo[backbone['arch']], 'embed_dims': 16, 'd_state': 4, 'd_conv': 3, 'stem_dims': 8}
    backbone['arch'] = {**arch, 'depth': 2} if shallow else arch
    backbone['img_size'] = scaled(backbone.get('img_size', 224), ratio)
    indices = backbone.get('out_indices', -1)
    return [16] * (1 if isinstance(indices, int) else len(indices))


PLAINMAMBA = FamilyCase(
    name='plainmamba',
    backbone=PlainMamba,
    arch={**WIDE, 'depth': 4},
    variants={
        'two': Variant((16, 16), {'img_size': 64, 'out_indices': (1, 3)}),
        'last': Variant(
            (16,),
            {'arch': {**WIDE, 'depth': 3, 'stem_convs': 2, 'conv_blocks': ()}, 'img_size': (64, 32)},
        ),
        'raw': Variant(
            (16, 16, 16),
            {
                'arch': {**WIDE, 'depth': 3, 'stem_convs': 0, 'conv_blocks': (0, 2)},
                'img_size': 64,
                'out_indices': (0, 1, 2),
                'out_norm': False,
            },
        ),
    },
    tiny={'arch': SMALL, 'img_size': 32, 'out_indices': (0, 1)},
    mixers=(),
    blocks=lambda model: list(model.layers),
    stages=lambda model: list(model.layers),
    undecayed=frozenset({'A_log', 'D', 'direction_Bs'}),
    file_arch=SMALL,
    files={'classifier': PublishedFile(published, 'classifier')},
    narrow=narrow,
    dense={'img_size': (48, 80), 'out_indices': (0, 1)},
    not_copied=('pos_embed', 'norm_layer'),
    golden={
        'plainmamba_l1': Golden(lambda: PlainMamba('l1', out_indices=ALL_FOUR), lambda key: key, tolerance=2e-5),
    },
    sizes={'l1': (7.3, 0.3), 'l2': (25.7, 0.5), 'l3': (50.5, 0.5)},  # published without the linear layer
    segmentors={  # the folder's README has the sources
        f'plainmamba/plainmamba-{size}_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16)
        for size in ('l1', 'l2', 'l3')
    },
    detectors={
        f'plainmamba/plainmamba-adapter-{size}_{head}_8xb2-1x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11))
        for size in ('l1', 'l2', 'l3')
        for head in ('mask-rcnn', 'retinanet')
    },
)
