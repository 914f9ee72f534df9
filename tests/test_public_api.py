"""Names that users rely on keep their meaning. A new name, or a new argument with a default, needs no edit.

Where one must go or change, say in CHANGELOG.md that it does and in UPGRADING.md what to write instead, and then record
the rest anew: ``python tests/public_api.py``.
"""

import copy
import json

import pytest
from public_api import RECORD, ROOT, collect

RECORDED = json.loads(RECORD.read_text('utf-8'))
KINDS = sorted(RECORDED)


@pytest.fixture(scope='module')
def found():
    return json.loads(json.dumps(collect()))


def lost(recorded, found, path=''):
    """What of a record is no longer found, or is not as it was; additions do not count, but for required arguments."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        gone = [f'{path}{name} is gone' for name in recorded if name not in found]
        required = [
            f'{path}{name} is new and has no default'
            for name in found
            if name not in recorded and isinstance(found[name], str) and found[name].endswith('required')
        ]
        return sum(
            (lost(recorded[name], found[name], f'{path}{name}: ') for name in recorded if name in found),
            gone + required,
        )
    if isinstance(recorded, list):
        return [f'{path}{name} is gone' for name in recorded if name not in found]
    return [] if recorded == found else [f'{path}was {recorded}, is {found}']


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_lost(kind, found):
    assert lost(RECORDED[kind], found[kind]) == [], 'an entry of CHANGELOG.md and of UPGRADING.md, then a new record'


def test_variables_are_documented():
    pages = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')]
    text = '\n'.join(page.read_text('utf-8') for page in pages)
    assert [name for name in RECORDED['variables'] if name not in text] == []


def test_a_loss_is_seen(found):
    def after(change):
        changed = copy.deepcopy(found)
        change(changed)
        return [text for kind in KINDS for text in lost(RECORDED[kind], changed[kind])]

    assert after(lambda x: x['registered'].pop('MODELS: Vim'))
    assert after(lambda x: x['exported']['mmvim.ops.selective_scan'].pop('reverse'))
    assert after(lambda x: x['exported']['mmvim.ops.selective_scan'].update(reverse='True'))
    assert after(lambda x: x['exported']['mmvim.ops.selective_scan'].update(new='required'))
    assert after(lambda x: x['exported']['mmvim.ops.selective_scan'].update(u='1: required', delta='0: required'))
    assert after(lambda x: x['exported']['mmvim.checkpoints.CROP_MODES'].pop())
    assert after(lambda x: x['variables'].remove('MMVIM_SCAN_BACKEND'))
    assert after(lambda x: x['tools'].pop('train.py: --resume'))
    assert after(lambda x: x['tools']['train.py: --launcher'].update(choices=['none']))
    assert after(lambda x: x['commands'].pop('mmvim convert: --to'))


def test_an_addition_is_none(found):
    changed = copy.deepcopy(found)
    changed['exported']['mmvim.ops.selective_scan']['new'] = 'None'
    changed['exported']['mmvim.ops.another'] = {}
    changed['variables'].append('MMVIM_NEW')
    changed['tools']['train.py: --launcher']['choices'].append('new')
    assert [text for kind in KINDS for text in lost(RECORDED[kind], changed[kind])] == []
