"""Configs by name, as one file without bases, and the one line about packages that mmvim is not tested with."""

import functools
import re
from pathlib import Path

import mmengine
import pytest
from checkout import one_of_each_kind
from mmengine.config import Config

from mmvim.cli import UserError, config, load_config
from mmvim.cli.commands.config import main as print_config
from mmvim.cli.recipes import MIM

CONFIGS = sorted(p.relative_to(MIM / 'configs') for p in (MIM / 'configs').rglob('*.py') if '_base_' not in p.parts)
_load = functools.cache(mmengine.load)


@pytest.fixture
def metafiles_once(monkeypatch):
    """MMEngine reads every metafile of a package for each base that is taken from it."""
    monkeypatch.setattr('mmengine.config.utils.load', _load)


def test_one_warning_for_another_version(monkeypatch, capsys):
    config.warn_if_untested()
    assert 'mmengine' not in capsys.readouterr().err
    monkeypatch.setattr(mmengine, '__version__', '9.9.9')
    config.warn_if_untested()
    said = capsys.readouterr().err
    assert said.startswith('warning: not tested with mmengine 9.9.9 (tested: mmengine 0.10.12 or 0.10.7;')
    assert said.count('\n') == 1


@pytest.mark.slow
@pytest.mark.parametrize('file', one_of_each_kind(CONFIGS), ids=lambda file: file.stem)
def test_printed_config_is_the_config(file, capsys, tmp_path, metafiles_once, quick_runners):
    pytest.importorskip('mmdet' if 'coco' in file.as_posix() else 'mmpretrain' if 'in1k' in file.name else 'mmseg')
    print_config([file.stem])
    text = capsys.readouterr().out
    (tmp_path / 'mine.py').write_text(text)
    assert text.startswith(f'# configs/{file.as_posix()} with its bases') and 'mmvim::' not in text
    assert not re.search(r'^_base_', text, re.MULTILINE)
    read = Config.fromfile(tmp_path / 'mine.py').to_dict()
    assert read == Config.fromfile(MIM / 'configs' / file).to_dict()


def test_a_file_of_ones_own_is_printed(capsys, tmp_path, metafiles_once):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmvim::vim/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'\nseed = 7\n")
    print_config([str(tmp_path / 'mine.py')])
    text = capsys.readouterr().out
    assert text.startswith('# mine.py with') and 'mmvim::' not in text
    assert re.search(r'^seed ?= ?7$', text, re.MULTILINE)


def test_what_cannot_be_printed_is_said(capsys, tmp_path):
    (tmp_path / 'mine.py').write_text("model = dict(type='A', value=float('inf'))\n")
    with pytest.raises(UserError, match='holds values that no text stands for'):
        print_config([str(tmp_path / 'mine.py')])
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('name', ['upernet_vim_t_ade20k', 'vim/vim-tiny_upernet_8xb2-160k_ade20k-512x512'])
def test_the_work_dir_is_named_after_the_config(name, metafiles_once):
    import argparse

    for given in (name, f'{name}.py', f'configs/{name}.py'):
        cfg = config.load_config(given)
        config.set_work_dir(cfg, argparse.Namespace(config=given, work_dir=None))
        assert cfg.work_dir == f'work_dirs/{Path(name).name}'


def test_deterministic_without_a_seed(tmp_path, capfd):
    """MMEngine's runner would end in a traceback: it wants a seed beside it, be it None."""
    (tmp_path / 'mine.py').write_text("default_scope = 'mmvim'\nmodel = dict(type='Vim')\nrandomness = dict()\n")
    cfg = load_config(str(tmp_path / 'mine.py'), {'randomness.deterministic': True})
    assert cfg.randomness == {'deterministic': True, 'seed': None} and 'warning' not in capfd.readouterr().err
