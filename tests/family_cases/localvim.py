"""LocalVim as the tests know it."""

import math
from collections import OrderedDict

import torch
from family_cases.base import DetectorRecipe, FamilyCase, Golden, PublishedFile, Recipe, Variant, scaled, with_head
from torch import nn

from mmvim.models import LocalVim

DIRECTIONS = ('h', 'v_flip', 'w2', 'w7_flip')
SMALL = {'embed_dims': 16, 'depth': 4, 'd_state': 2, 'directions': DIRECTIONS}
RMS = {'type': 'mmvim.RMSNorm', 'eps': 1e-5}
CLASSIFIER = {'norm_cfg': RMS, 'feature': 'residual', 'out_norm': False, 'final_norm': True, 'out_indices': -1}


def published() -> OrderedDict[str, torch.Tensor]:
    """A classifier of 224 pixels, with RMSNorm and without mmvim's record of the grid."""
    weights = with_head(LocalVim(SMALL, **CLASSIFIER), 16)
    return OrderedDict((name, value) for name, value in weights.items() if name != 'pos_embed_grid')


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**LocalVim.arch_zoo[backbone['arch']], 'embed_dims': 16}
    backbone['arch'] = arch
    backbone['img_size'] = scaled(backbone.get('img_size', 224), ratio)
    indices = backbone.get('out_indices', (4, 9, 14, 19))
    return [16] * (1 if isinstance(indices, int) else len(indices))


def spoil(model: nn.Module) -> None:
    """Scale the decay of every scan by 1.1."""
    found = [p for name, p in model.named_parameters() if '.A_log_' in name]
    assert found, 'no parameter is the logarithm of a decay'
    with torch.no_grad():
        for parameter in found:
            parameter += math.log(1.1)


LOCALVIM = FamilyCase(
    name='localvim',
    backbone=LocalVim,
    arch={**SMALL, 'embed_dims': 32},
    variants={
        'dense': Variant((16, 16, 16, 16), {'img_size': 64, 'out_indices': (0, 1, 2, 3)}),
        'residual': Variant(
            (16,),
            {'img_size': (64, 32), 'feature': 'residual', 'norm_cfg': RMS, 'out_norm': False, 'out_indices': -1},
        ),
    },
    tiny={
        'arch': {**SMALL, 'depth': 2, 'directions': ('h', 'h_flip', 'v', 'v_flip')},
        'img_size': 32,
        'out_indices': (0, 1),
    },
    mixers=(),
    blocks=lambda model: list(model.layers),
    stages=lambda model: list(model.layers),
    undecayed=frozenset(f'{name}_{k}' for name in ('A_log', 'D') for k in range(4)),
    file_arch=SMALL,
    files={'classifier': PublishedFile(published, 'classifier')},
    narrow=narrow,
    dense={'img_size': (48, 80), 'norm_cfg': RMS, 'out_indices': (0, 1, 2, 3)},
    not_copied=('pos_embed', 'outnorm'),
    # The recording itself is up to 9.1e-5 from the same in float64; the decay, 1.1 times as large, changes it by 0.1.
    golden={
        'localvim_tiny': Golden(lambda: LocalVim('tiny'), lambda key: key, options={'grid': (14, 14)}, tolerance=1e-4)
    },
    classifier=CLASSIFIER,
    sizes={'tiny': (8, 0.5), 'small': (28, 0.5)},
    segmentors={  # the folder's README has the sources
        'localvim/localvim-small_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
        'localvim/localvim-tiny_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
    },
    detectors={
        'localvim/localvim-small_vitdet-cascade-mask-rcnn_64xb1-lsj-100e_coco.py': DetectorRecipe(
            1e-4, 0.05, 64, 184375, (163889, 177546), 0.7
        ),
        'localvim/localvim-small_vitdet-mask-rcnn_64xb1-lsj-100e_coco.py': DetectorRecipe(
            1e-4, 0.05, 64, 184375, (163889, 177546), 0.7
        ),
        'localvim/localvim-tiny_vitdet-cascade-mask-rcnn_32xb2-lsj-100e_coco.py': DetectorRecipe(
            1e-4, 0.05, 64, 184375, (163889, 177546), 0.7
        ),
        'localvim/localvim-tiny_vitdet-mask-rcnn_32xb2-lsj-100e_coco.py': DetectorRecipe(
            1e-4, 0.05, 64, 184375, (163889, 177546), 0.7
        ),
    },
    spoil=spoil,
)
