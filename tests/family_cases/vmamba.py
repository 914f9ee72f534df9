"""VMamba as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import DetectorRecipe, FamilyCase, Golden, PublishedFile, Recipe, Variant, with_head
from golden.models import Classifier

from mmvim.models import VMamba

SMALL = {'depths': (1, 1, 2, 1), 'dim': 8}
FIRST = {**SMALL, 'd_state': 2, 'ssm_ratio': 2, 'mlp_ratio': 0, 'release': 'v0'}


def published(arch: dict) -> OrderedDict[str, torch.Tensor]:
    """A classifier."""
    weights = with_head(VMamba(arch, out_norm=False, final_norm=True), 64)
    return OrderedDict((published_name(name), value) for name, value in weights.items())


def published_name(name: str) -> str:
    """The publisher's name of a tensor of a classifier."""
    return f'classifier.{name}' if name.startswith(('norm.', 'head.')) else name


def own_name(key: str) -> str:
    """The name in :class:`Classifier` of a publisher's tensor."""
    key = key.removeprefix('classifier.')
    return key if key.startswith('head.') else f'backbone.{key}'


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**VMamba.arch_zoo[backbone['arch']], 'dim': 8}
    backbone['arch'] = {**arch, 'depths': (1, 1, 2, 1)} if shallow else arch
    indices = backbone.get('out_indices', (0, 1, 2, 3))
    return [8 * 2**stage for stage in ((indices,) if isinstance(indices, int) else indices)]


VMAMBA = FamilyCase(
    name='vmamba',
    backbone=VMamba,
    arch={**SMALL, 'dim': 16},
    variants={
        'second': Variant((4, 8, 16, 32)),
        'wide': Variant((4, 8, 16, 32), {'arch': {**SMALL, 'ssm_ratio': 2}, 'final_norm': True, 'out_norm': False}),
        'first': Variant((4, 8, 16, 32), {'arch': FIRST}, lambda side, stride: -(-(side // 4) // (stride // 4))),
    },
    tiny={'arch': SMALL},
    mixers=(),
    blocks=lambda model: [block for layer in model.layers for block in layer.blocks],
    stages=lambda model: list(model.layers),
    undecayed=frozenset({'A_logs', 'Ds', 'dt_projs_bias'}),
    file_arch=SMALL,
    files={'classifier': PublishedFile(lambda: published(SMALL), 'classifier')},
    narrow=narrow,
    not_copied=('outnorm',),
    golden={
        'vmamba_tiny_seg': Golden(VMamba, lambda key: key),
        'vmamba_vanilla_tiny_cls': Golden(
            lambda: Classifier(VMamba('vanilla-tiny', out_indices=3, out_norm=False, final_norm=True), 768),
            own_name,
            classifier=True,
            arch='vanilla-tiny',
        ),
    },
    classifier={'out_norm': False, 'final_norm': True},
    sizes={
        'tiny': (30, 0.5),
        'tiny-s2l5': (31, 0.5),
        'small': (50, 0.5),
        'small-s1l20': (49, 0.5),
        'base': (89, 0.5),
        'base-s1l20': (87, 0.5),
        'vanilla-tiny': (23, 0.5),
        'vanilla-small': (44, 0.5),
        'vanilla-base': (76, 0.5),
    },
    segmentors={  # the folder's README has the sources
        f'vmamba/vmamba-{arch}_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16)
        for arch in ('tiny', 'tiny-s2l5', 'small', 'base', 'vanilla-tiny', 'vanilla-small', 'vanilla-base')
    },
    detectors={
        f'vmamba/vmamba-{arch}_mask-rcnn_{batch}-{epochs}x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12 * epochs, steps)
        for epochs, steps in ((1, (8, 11)), (3, (27, 33)))
        for arch, batch in (
            ('tiny', '8xb2'),
            ('tiny-s2l5', '8xb2'),
            ('small', '8xb2'),
            ('base', '8xb2'),
            ('vanilla-tiny', '8xb2'),
            ('vanilla-small', '8xb2'),
            ('vanilla-base', '16xb1'),
        )
    },
)
