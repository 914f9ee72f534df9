"""MSVMamba as the tests know it."""

from collections import OrderedDict

import torch
from family_cases.base import DetectorRecipe, FamilyCase, Golden, PublishedFile, Recipe, Variant, with_head

from mmvim.models import MSVMamba

SMALL = {'depths': (1, 1, 2, 1), 'dim': 8}


def published(arch: dict) -> OrderedDict[str, torch.Tensor]:
    """A classifier."""
    weights = with_head(MSVMamba(arch, out_norm=False, final_norm=True), 64)
    return OrderedDict((published_name(name), value) for name, value in weights.items())


def published_name(name: str) -> str:
    """The publisher's name of a tensor of a classifier."""
    return f'classifier.{name}' if name.startswith(('norm.', 'head.')) else name


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**MSVMamba.arch_zoo[backbone['arch']], 'dim': 8}
    backbone['arch'] = {**arch, 'depths': (1, 1, 2, 1)} if shallow else arch
    indices = backbone.get('out_indices', (0, 1, 2, 3))
    return [8 * 2**stage for stage in ((indices,) if isinstance(indices, int) else indices)]


MSVMAMBA = FamilyCase(
    name='msvmamba',
    backbone=MSVMamba,
    arch={**SMALL, 'dim': 16},
    variants={
        'dense': Variant((4, 8, 16, 32), {}, lambda side, stride: -(-(side // 4) // (stride // 4))),
        'wide': Variant(
            (4, 8, 16, 32),
            {'arch': {**SMALL, 'd_state': 2, 'ssm_ratio': 4, 'ffn_ratio': 3}, 'out_norm': False},
            lambda side, stride: -(-(side // 4) // (stride // 4)),
        ),
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
    golden={'msvmamba_micro': Golden(lambda: MSVMamba('micro'), lambda key: key, tolerance=2e-5)},
    classifier={'out_norm': False, 'final_norm': True},
    sizes={'nano': (7, 0.5), 'micro': (12, 0.5), 'tiny': (33, 0.5)},
    segmentors={  # the folder's README has the sources
        'msvmamba/msvmamba-micro_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
        'msvmamba/msvmamba-nano_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
        'msvmamba/msvmamba-tiny_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
    },
    detectors={
        'msvmamba/msvmamba-micro_mask-rcnn_8xb2-1x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11)),
        'msvmamba/msvmamba-nano_mask-rcnn_8xb2-1x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11)),
        'msvmamba/msvmamba-micro_mask-rcnn_8xb2-3x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 36, (27, 33)),
        'msvmamba/msvmamba-nano_mask-rcnn_8xb2-3x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 36, (27, 33)),
        'msvmamba/msvmamba-tiny_mask-rcnn_8xb2-1x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 12, (8, 11)),
        'msvmamba/msvmamba-tiny_mask-rcnn_8xb2-3x_coco.py': DetectorRecipe(1e-4, 0.05, 16, 36, (27, 33)),
    },
)
