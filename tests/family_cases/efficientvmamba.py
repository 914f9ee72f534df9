"""EfficientVMamba as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import DetectorRecipe, FamilyCase, Golden, PublishedFile, Recipe, Variant, with_head

from mmvim.models import EfficientVMamba

SMALL = {'depths': (1, 1, 2, 1), 'dim': 8}


def published() -> OrderedDict[str, torch.Tensor]:
    """A classifier, in the names of the publisher's files."""
    weights = with_head(EfficientVMamba(SMALL, out_norm=False, final_norm=True), 64)
    return OrderedDict(
        (f'{"classifier." * name.startswith(("norm.", "head."))}{name}', value) for name, value in weights.items()
    )


def floored(side: int, stride: int) -> int:
    """The side of an output: whole patches of 4 pixels, then halves rounded up."""
    return -(-(side // 4) // (stride // 4))


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**EfficientVMamba.arch_zoo[backbone['arch']], 'dim': 8}
    backbone['arch'] = {**arch, 'depths': (1, 1, 2, 1)} if shallow else arch
    indices = backbone.get('out_indices', (0, 1, 2, 3))
    return [8 * 2**stage for stage in ((indices,) if isinstance(indices, int) else indices)]


EFFICIENTVMAMBA = FamilyCase(
    name='efficientvmamba',
    backbone=EfficientVMamba,
    arch={**SMALL, 'dim': 16},
    variants={
        'dense': Variant((4, 8, 16, 32), {}, floored),
        'step': Variant(
            (4, 8, 16, 32),
            {'arch': {**SMALL, 'd_state': 4, 'ssm_ratio': 1, 'step': 3}, 'final_norm': True, 'out_norm': False},
            floored,
        ),
    },
    tiny={'arch': SMALL},
    mixers=(),
    blocks=lambda model: [block for layer in model.layers for block in layer.blocks],
    stages=lambda model: list(model.layers),
    undecayed=frozenset({'A_logs', 'Ds', 'dt_projs_bias'}),
    file_arch=SMALL,
    files={'classifier': PublishedFile(published, 'classifier')},
    narrow=narrow,
    not_copied=('outnorm',),
    golden={'efficientvmamba_tiny': Golden(EfficientVMamba, lambda key: key, tolerance=2e-5)},
    classifier={'out_norm': False, 'final_norm': True},
    sizes={'tiny': (6, 0.5), 'small': (11, 0.5), 'base': (33, 0.8)},  # published as 33: cut off, not rounded
    segmentors={  # the recipe is VMamba's and Swin's, see the folder's README
        f'efficientvmamba/efficientvmamba-{arch}_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16)
        for arch in ('tiny', 'small', 'base')
    },
    detectors={
        f'efficientvmamba/efficientvmamba-{arch}_mask-rcnn_4xb4-amp-{name}_coco.py': figures
        for arch in ('tiny', 'small', 'base')
        for name, figures in (
            ('1x', DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11))),
            ('3x', DetectorRecipe(1e-4, 0.05, 16, 36, (27, 33))),
        )
    },
)
