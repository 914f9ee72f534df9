"""Every family of backbones as the tests know it: an entry a family, in ``family_cases/``, and its line here.

What holds for every family is tested for each entry; what one family alone does has tests of its own. A registered
backbone without an entry fails a test.
"""

import pytest
import torch
from family_cases.base import FamilyCase
from family_cases.efficientvmamba import EFFICIENTVMAMBA
from family_cases.localvim import LOCALVIM
from family_cases.localvmamba import LOCALVMAMBA
from family_cases.mambavision import MAMBAVISION
from family_cases.msvmamba import MSVMAMBA
from family_cases.plainmamba import PLAINMAMBA
from family_cases.vim import VIM
from family_cases.vmamba import VMAMBA
from family_cases.vrwkv import VRWKV
from torch import Tensor, nn

FAMILY_CASES: dict[str, FamilyCase] = {
    'efficientvmamba': EFFICIENTVMAMBA,
    'localvim': LOCALVIM,
    'localvmamba': LOCALVMAMBA,
    'mambavision': MAMBAVISION,
    'msvmamba': MSVMAMBA,
    'plainmamba': PLAINMAMBA,
    'vim': VIM,
    'vmamba': VMAMBA,
    'vrwkv': VRWKV,
}

# Backbones that stand around one of a family, and have tests of their own.
ADAPTERS = ('ViTAdapter',)


def plain(backbone: dict) -> dict:
    """Return the config of a family's backbone, which may have an adapter around it."""
    return backbone['backbone'] if backbone['type'].removeprefix('mmvim.') in ADAPTERS else backbone


def family_of(backbone: dict) -> FamilyCase:
    """Return the entry of a config's backbone, or of the one inside of an adapter."""
    backbone = plain(backbone)
    found = [case for case in FAMILY_CASES.values() if case.type == backbone['type']]
    assert found, f'no entry in tests/families.py for {backbone["type"]}'
    return found[0]


def build_smallest(family: str) -> tuple[nn.Module, Tensor]:
    """Build the smallest model of a family, and a picture: 4 x 4 positions at a pyramid's first stage, or 2 x 2."""
    case = FAMILY_CASES[family]
    side = 16 if 'depths' in case.tiny['arch'] else 32
    return case.build_tiny().eval(), torch.randn(1, 3, side, side)


def each(field: str) -> list[tuple[str, str]]:
    """Return (name of a family, key) for every key of a field of every family, to parametrise a test."""
    return [(name, key) for name, case in FAMILY_CASES.items() for key in getattr(case, field)]


def one_of_each(field: str) -> list:
    """Return the same as parameters of which each family's first is ordinary and the others are ``full``."""
    firsts = {(name, next(iter(getattr(case, field)), None)) for name, case in FAMILY_CASES.items()}
    return [pytest.param(*pair, marks=() if pair in firsts else pytest.mark.full) for pair in each(field)]


def narrow_backbone(backbone: dict, ratio: float, shallow: bool = False) -> list[int]:
    """Make the config of a backbone with a named architecture narrow, in place; return the channels of its outputs."""
    channels = family_of(backbone).narrow(plain(backbone), ratio, shallow)
    if plain(backbone) is not backbone:
        backbone.update(num_heads=2, conv_dims=8)
        channels = channels[:1] * len(backbone.get('out_indices', (0, 1, 2, 3)))
        if isinstance(backbone['backbone']['arch'], dict) and backbone['backbone']['arch']['depth'] < 4:
            backbone.update(groups=((0, backbone['backbone']['arch']['depth'] - 1),), fuse='last')
    return channels
