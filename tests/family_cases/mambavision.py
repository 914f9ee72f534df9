"""MambaVision as the tests know it."""

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
    scaled,
    with_head,
)
from golden.models import Classifier, classifier_name

from mmvim.models import MambaVision

SMALL_MAMBAVISION = {'depths': (1, 1, 2, 2), 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)}


def published_mambavision() -> OrderedDict[str, torch.Tensor]:
    """A classifier."""
    return with_head(MambaVision(SMALL_MAMBAVISION, out_norm=False, final_norm=True), 64)


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    arch = {**MambaVision.arch_zoo[backbone['arch']], 'dim': 8, 'in_dim': 8, 'num_heads': (1, 1, 2, 4)}
    windows = backbone.get('window_sizes', arch.get('window_sizes', MambaVision.arch_defaults['window_sizes']))
    backbone['window_sizes'] = scaled(windows, ratio)
    backbone['arch'] = {**arch, 'depths': (1, 1, 2, 2)} if shallow else arch
    indices = backbone.get('out_indices', (0, 1, 2, 3))
    return [8 * 2**level for level in ((indices,) if isinstance(indices, int) else indices)]


MAMBAVISION = FamilyCase(
    name='mambavision',
    backbone=MambaVision,
    arch={'depths': (1, 1, 3, 2), 'dim': 16, 'in_dim': 8, 'num_heads': (1, 1, 2, 4), 'window_sizes': (8, 8, 4, 3)},
    variants={
        'plain': Variant((4, 8, 16, 32)),
        'scaled': Variant((4, 8, 16, 32), {'layer_scale': 1e-1, 'final_norm': True, 'out_norm': False}),
    },
    tiny={'arch': {**SMALL_MAMBAVISION, 'dim': 16, 'num_heads': (1, 1, 2, 2), 'window_sizes': (8, 8, 2, 2)}},
    mixers=({'type': 'mmvim.MambaVisionMixer', 'embed_dims': 12},),
    blocks=lambda model: [block for level in model.levels for block in level.blocks],
    stages=lambda model: list(model.levels),
    undecayed=frozenset({'A_log', 'D'}),
    file_arch=SMALL_MAMBAVISION,
    files={'classifier': PublishedFile(published_mambavision, 'classifier')},
    narrow=narrow,
    not_copied=('outnorm',),
    golden={
        'mambavision_tiny_cls': Golden(
            lambda: Classifier(MambaVision('tiny', out_indices=3, out_norm=False, final_norm=True), 640),
            classifier_name,
            classifier=True,
        ),
        'mambavision_tiny_seg': Golden(lambda: MambaVision('tiny', window_sizes=(8, 8, 64, 32)), lambda key: key),
    },
    classifier={'out_norm': False, 'final_norm': True},
    read_options=('window_sizes',),
    sizes={
        'tiny': (31.8, 0.1),
        'tiny2': (35.1, 0.1),
        'small': (50.1, 0.1),
        'base': (97.7, 0.1),
        'large': (227.9, 0.1),
        'large2': (241.5, 0.1),
        'large3': (739.6, 0.1),
    },
    segmentors={  # the folder's README has the sources
        'mambavision/mambavision-tiny_upernet_16xb1-amp-160k_ade20k-512x512.py': Recipe(5e-5, 0.01, 1.0, 16),
        'mambavision/mambavision-small_upernet_8xb2-amp-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 1.0, 16),
        'mambavision/mambavision-base_upernet_16xb1-amp-160k_ade20k-512x512.py': Recipe(5e-5, 0.01, 1.0, 16),
        'mambavision/mambavision-large3_upernet_16xb1-160k_ade20k-640x640.py': Recipe(8e-5, 0.05, 1.0, 16),
    },
    detectors={
        **{
            f'mambavision/mambavision-{size}_{head}_8xb2-amp-{epochs}x_coco.py': DetectorRecipe(
                2e-4 if size == 'base' else 1e-4, 0.05, 16, 12 * epochs, steps
            )
            for size in ('tiny', 'small', 'base')
            for head, epochs, steps in (('mask-rcnn', 1, (8, 11)), ('cascade-mask-rcnn', 3, (27, 33)))
        },
        'mambavision/mambavision-tiny_mask2former_8xb2-lsj-50e_coco-panoptic.py': DetectorRecipe(
            1e-4, 0.05, 16, 368750, (327778, 355092)
        ),
    },
    classifiers={
        'mambavision/mambavision-tiny_in1k.py': ClassifierRecipe('Lamb', 5e-3, 0.05, 4096, 20, 0.2, 224),
        'mambavision/mambavision-small_in1k.py': ClassifierRecipe('Lamb', 5e-3, 0.05, 4096, 20, 0.2, 240, mesa=True),
        'mambavision/mambavision-tiny_adamw_in1k.py': ClassifierRecipe('AdamW', 1e-3, 0.05, 1024, 20, 0.2, 224),
    },
)
