"""LocalVMamba as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import DetectorRecipe, FamilyCase, Golden, PublishedFile, Recipe, Variant, with_head

from mmvim.models import LocalVMamba

SMALL = {'depths': (1, 1, 2, 1), 'dim': 8, 'd_state': 2, 'directions': ('h', 'v_flip', 'w2', 'w7_flip')}
EACH = (('h', 'w2'), ('v_flip', 'w7'), ('h_flip', 'v'), ('w2_flip', 'w7_flip'), ('h', 'v'))  # one list for each block


def published(arch: dict) -> OrderedDict[str, torch.Tensor]:
    """A classifier."""
    weights = with_head(LocalVMamba(arch, out_norm=False, final_norm=True), 64)
    return OrderedDict((published_name(name), value) for name, value in weights.items())


def published_name(name: str) -> str:
    """The publisher's name of a tensor of a classifier."""
    return f'classifier.{name}' if name.startswith(('norm.', 'head.')) else name


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**LocalVMamba.arch_zoo[backbone['arch']], 'dim': 8}
    if shallow:
        arch = {**arch, 'depths': (1, 1, 2, 1), 'directions': arch['directions'][:5]}
    backbone['arch'] = arch
    indices = backbone.get('out_indices', (0, 1, 2, 3))
    return [8 * 2**stage for stage in ((indices,) if isinstance(indices, int) else indices)]


LOCALVMAMBA = FamilyCase(
    name='localvmamba',
    backbone=LocalVMamba,
    arch={**SMALL, 'dim': 16},
    variants={
        'dense': Variant((4, 8, 16, 32), {}, lambda side, stride: -(-(side // 4) // (stride // 4))),
        'each': Variant(
            (4, 8, 16, 32),
            {'arch': {**SMALL, 'ssm_ratio': 1, 'directions': EACH}, 'out_norm': False},
            lambda side, stride: -(-(side // 4) // (stride // 4)),
        ),
    },
    tiny={'arch': {**SMALL, 'directions': ('h', 'h_flip', 'v', 'v_flip')}},
    mixers=(),
    blocks=lambda model: [block for layer in model.layers for block in layer.blocks],
    stages=lambda model: list(model.layers),
    undecayed=frozenset({'A_logs', 'Ds', 'dt_projs_bias'}),
    file_arch=SMALL,
    files={'classifier': PublishedFile(lambda: published(SMALL), 'classifier')},
    narrow=narrow,
    not_copied=('outnorm',),
    golden={'localvmamba_tiny': Golden(lambda: LocalVMamba('tiny'), lambda key: key, tolerance=2e-5)},
    classifier={'out_norm': False, 'final_norm': True},
    sizes={'tiny': (26, 0.6), 'small': (50, 0.6)},
    segmentors={  # the folder's README has the sources
        'localvmamba/localvmamba-small_upernet_8xb2-amp-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
        'localvmamba/localvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
    },
    detectors={
        'localvmamba/localvmamba-small_mask-rcnn_8xb2-amp-1x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11)),
        'localvmamba/localvmamba-small_mask-rcnn_8xb2-amp-3x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 36, (27, 33)),
        'localvmamba/localvmamba-tiny_mask-rcnn_8xb2-amp-1x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11)),
        'localvmamba/localvmamba-tiny_mask-rcnn_8xb2-amp-3x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 36, (27, 33)),
    },
)
