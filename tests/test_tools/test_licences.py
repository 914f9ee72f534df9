"""requirements/LICENCES.md: of the pins that are there, and nothing in it that would bind who installs them."""

import re
from email.message import Message
from types import SimpleNamespace

import pytest
from checkout import load_tool

tool = load_tool('licences.py')
# The GPL binds what is linked with it; the LGPL and the MPL do not bind what only imports them.
# Of docutils, which only the documentation site is made with, the GPL covers a mode for Emacs.
EXCEPTED = {'docutils'}
BINDING = re.compile(r'(?<!L)(?<!Lesser )(A?GPL|General Public License|Affero)')


def distribution(name='x', version='1', **headers):
    metadata = Message()
    for key, values in {'Name': name, **headers}.items():
        for value in values if isinstance(values, list) else [values]:
            metadata[key.replace('_', '-')] = value
    return SimpleNamespace(metadata=metadata, version=version)


def test_the_table_is_of_the_pins():
    found = {(tool.normal(name), version, file) for name, version, file, _ in tool.ROW.findall(tool.TABLE.read_text())}
    assert found == {(key, version, file) for key, (_, version, file) in tool.pins().items()}


def test_no_licence_binds_who_installs_them():
    licences = {name: licence for name, _, _, licence in tool.ROW.findall(tool.TABLE.read_text())}
    assert len(licences) > 70 and all(licences.values())
    assert {name for name, licence in licences.items() if BINDING.search(licence)} == EXCEPTED


@pytest.mark.parametrize(
    ('licence', 'binds'),
    [
        ('GPL-3.0-only', True),
        ('GNU General Public License v3 (GPLv3)', True),
        ('AGPL-3.0', True),
        ('LGPL-2.1-or-later', False),
        ('GNU Lesser General Public License v3 (LGPLv3)', False),
        ('MPL-2.0', False),
    ],
)
def test_what_binds(licence, binds):
    assert bool(BINDING.search(licence)) == binds


@pytest.mark.parametrize(
    ('headers', 'licence'),
    [
        ({'License_Expression': 'MIT', 'License': 'other'}, 'MIT'),
        (
            {'Classifier': ['License :: OSI Approved', 'License :: OSI Approved :: BSD License', 'A :: B']},
            'BSD License',
        ),
        ({'License': 'Apache 2.0\nand so on'}, 'Apache 2.0'),
        ({'License': 'Copyright 2026 A. All rights reserved.\n\n     Apache License\n  Version 2.0'}, 'Apache License'),
        ({}, ''),
    ],
)
def test_where_a_licence_is_stated(headers, licence):
    assert tool.licence_of(distribution(**headers)) == licence


def test_what_is_not_here_keeps_its_row_and_what_nobody_knows_is_named(monkeypatch):
    pins = {'a-b': ('a_b', '1', 'x.txt'), 'c': ('c', '2', 'x.txt'), 'd': ('d', '3', 'x.txt')}
    monkeypatch.setattr(tool, 'pins', lambda: pins)
    before = '| c | 2 | x.txt | MIT |\n| d | 2 | x.txt | MIT |\n'
    lines, unknown = tool.rows([distribution('A.B', '1+cpu', License='ISC')], before)
    assert lines[:2] == ['| a_b | 1 | x.txt | ISC |', '| c | 2 | x.txt | MIT |'] and unknown == ['d==3']
