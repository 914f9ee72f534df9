"""The toy as the tests know it."""

from family_cases.base import FamilyCase, Golden, PublishedFile, Recipe, Variant, with_head
from golden.models import Classifier, classifier_name

from mmvim.models import Toy

SMALL = {'embed_dims': 16, 'depth': 2}
LAST = {'out_indices': -1, 'final_norm': True}  # of a classifier


def narrow(backbone: dict, ratio: float, shallow: bool) -> list[int]:
    """See :class:`FamilyCase`."""
    backbone['arch'] = {**Toy.arch_zoo[backbone['arch']], 'embed_dims': 8}
    return [8] * len(backbone['out_indices'])


def own_name(key: str) -> str:
    """The name here for one of the publisher's."""
    return key.replace('stem.', 'patch_embed.')


TOY = FamilyCase(
    name='toy',
    backbone=Toy,
    arch={'embed_dims': 16, 'depth': 3},
    variants={
        'plain': Variant((16, 16), {'out_indices': (0, 2)}),
        'gateless': Variant((16,), {**LAST, 'mixer_cfg': {'type': 'mmvim.SelectiveScan2D', 'gate': False}}),
    },
    tiny={'arch': SMALL},
    mixers=(),
    blocks=lambda model: list(model.blocks),
    stages=lambda model: list(model.blocks),
    undecayed=frozenset({'A_logs', 'Ds', 'dt_projs_bias'}),
    file_arch=SMALL,
    files={'classifier': PublishedFile(lambda: with_head(Toy(SMALL, **LAST), 16), 'classifier')},
    narrow=narrow,
    golden={
        'toy_nano_cls': Golden(
            lambda: Classifier(Toy(**LAST), 32),
            lambda key: classifier_name(own_name(key)),
            classifier=True,
        ),
        'toy_nano_dense': Golden(Toy, own_name),
    },
    classifier=LAST,
    segmentors={'toy/toy-nano_upernet_8xb2-160k_ade20k-512x512.py': Recipe(6e-5, 0.01, 0.9, 16)},
)
