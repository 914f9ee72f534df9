"""Every family of backbones as the tests know it: an entry a family, in ``family_cases/``, and its line here.

What holds for every family is tested for each entry; what one family alone does has tests of its own. A registered
backbone without an entry fails a test.
"""

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


def family_of(backbone: dict) -> FamilyCase:
    """Return the entry of a config's backbone."""
    found = [case for case in FAMILY_CASES.values() if case.type == backbone['type']]
    assert found, f'no entry in tests/families.py for {backbone["type"]}'
    return found[0]


def each(field: str) -> list[tuple[str, str]]:
    """Return (name of a family, key) for every key of a field of every family, to parametrise a test."""
    return [(name, key) for name, case in FAMILY_CASES.items() for key in getattr(case, field)]


def narrow_backbone(backbone: dict, ratio: float, shallow: bool = False) -> list[int]:
    """Make the config of a backbone with a named architecture narrow, in place; return the channels of its outputs."""
    return family_of(backbone).narrow(backbone, ratio, shallow)
