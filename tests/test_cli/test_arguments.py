"""Values on the command line: what MMEngine's parser reads, and what it would get wrong or end in a traceback over."""

import re

import pytest

from mmvim.cli import OneLineParser, OptionsAction


@pytest.fixture
def parse():
    parser = OneLineParser(prog='train')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return lambda *values: parser.parse_args(['--cfg-options', *values]).cfg_options


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('a=1', 1),
        ('a=1e-4', 1e-4),
        ('a=None', None),
        ('a=True', True),
        ('a=text', 'text'),
        ('a=x=y', 'x=y'),
        ('a=', ''),
        ('a=[1,2]', [1, 2]),
        ('a=1,2', [1, 2]),
        ('a=(1,)', (1,)),
        ('a=[(1,2),(3,4)]', [(1, 2), (3, 4)]),
        ("a=['x','y']", ['x', 'y']),
        ('a=[1, 2]', [1, 2]),
        ("a=['x y', 'z']", ['x y', 'z']),
        ('a=/my data/ade', '/my data/ade'),
        ('a="x y"', 'x y'),
        ('a=epoch_{}.pth', 'epoch_{}.pth'),
        ('a=my dict(1)', 'my dict(1)'),
        ('a=' + '- ' * 9999 + '1', '- ' * 9999 + '1'),
    ],
)
def test_values(parse, value, expected):
    assert parse(value) == {'a': expected}


def test_several(parse):
    assert parse('a=1', 'b.c=/my data', 'd=[1,2]') == {'a': 1, 'b.c': '/my data', 'd': [1, 2]}


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        ("param_scheduler=[dict(type='PolyLR',power=0.9)]", 'a dict cannot be given .*param_scheduler.0.NAME=VALUE'),
        ('param_scheduler=[{"type":"PolyLR"}]', 'a dict cannot be given .*param_scheduler.0.NAME=VALUE'),
        ("model.backbone.init_cfg={'type':'Pretrained'}", 'a dict .*model.backbone.init_cfg.NAME=VALUE, or write it'),
        ('a', 'is not KEY=VALUE'),
        ('=1', 'is not KEY=VALUE'),
        ('a=[1,2', 'is not KEY=VALUE .brackets must balance'),
        ('a=(1,[2)', 'is not KEY=VALUE .brackets must balance'),
        ('a=[1,2)', 'is not KEY=VALUE .brackets must balance'),
    ],
)
def test_what_cannot_be_read_is_one_line(parse, value, words, capsys):
    with pytest.raises(SystemExit) as error:
        parse(value)
    (line,) = capsys.readouterr().err.splitlines()
    assert error.value.code == 2
    assert line.startswith(f'error: --cfg-options {value!r}') and re.search(words, line), line
