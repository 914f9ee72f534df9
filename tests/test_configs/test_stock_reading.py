"""Configs read where nothing has imported mmvim: in MMSegmentation's and MMDetection's own tools and functions."""

import ast
import importlib.metadata
import os
import pickle
import re
import subprocess
import sys

import pytest
from checkout import CONFIGS, ROOT, config_files

pytestmark = pytest.mark.slow  # other processes

# Each config as the first that a process reads: what the one before has imported and registered is forgotten.
READ_EACH = """
import functools, pickle, sys
from unittest import mock
from mmengine.config import Config, utils

table, out, files = dict(utils.MODULE2PACKAGE), sys.argv[1], sys.argv[2:]
assert 'mmvim' not in table
read = []
with mock.patch.object(utils, 'load', functools.cache(utils.load)):  # fifty metafiles, for each `mmseg::`
    for file in files:
        assert 'mmvim' not in sys.modules
        read.append(Config.fromfile(file).to_dict())
        for name in [name for name in sys.modules if name.partition('.')[0] == 'mmvim']:
            del sys.modules[name]
        utils.MODULE2PACKAGE.clear()
        utils.MODULE2PACKAGE.update(table)
pickle.dump(read, open(out, 'wb'))
"""
ONEDL = any(dist.name == 'onedl-mmsegmentation' for dist in importlib.metadata.distributions())


def read_each(files, cwd, site=ROOT):
    """Read configs without mmvim, which can be imported from ``site``; return them, or the process if one fails."""
    command = [sys.executable, '-W', 'ignore', '-c', READ_EACH, cwd / 'read.pkl', *files]
    env = {**os.environ, 'PYTHONPATH': str(site)}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    return done if done.returncode else pickle.loads((cwd / 'read.pkl').read_bytes())


def test_every_config_reads_without_mmvim(tmp_path, load):
    names = config_files()
    read = read_each([CONFIGS / name for name in names], tmp_path)
    assert isinstance(read, list), read.stderr[-2000:]
    for name, cfg in zip(names, read, strict=True):
        assert cfg == load(name).to_dict(), name


def test_every_part_reads_without_mmvim(tmp_path):
    """Those that a user's config inherits one by one, beside its own."""
    parts = sorted((CONFIGS / '_base_').glob('*.py'))
    read = read_each(parts, tmp_path)
    assert isinstance(read, list) and len(read) == len(parts) > 5, read.stderr[-2000:]


@pytest.mark.skipif(not ONEDL, reason="the original MMSegmentation's bases are in MMEngine's table as they are")
def test_a_base_of_mmseg_alone_is_not_found(tmp_path):
    """What bases() is for: without it MMEngine looks for a distribution of another name."""
    (tmp_path / 'plain.py').write_text("_base_ = 'mmseg::_base_/default_runtime.py'\n")
    failed = read_each([tmp_path / 'plain.py'], tmp_path)
    assert 'mmsegmentation is not installed' in failed.stderr


USERS = """
_base_ = __import__('mmvim').bases('mmvim::{}')
work_dir = 'mine'
"""


def test_a_users_config_reads_without_mmvim(tmp_path, installed, load):
    names = [
        'vim/vim-small_upernet_8xb2-160k_ade20k-512x512.py',
        'vim/vim-tiny_vitdet-mask-rcnn_4xb16-amp-lsj-100e_coco.py',
    ]
    users = [tmp_path / f'user{number}.py' for number in range(len(names))]
    for user, name in zip(users, names, strict=True):
        user.write_text(USERS.format(name))
    read = read_each(users, tmp_path, installed)
    assert isinstance(read, list), read.stderr[-2000:]
    for name, cfg in zip(names, read, strict=True):
        backbone = load(name).model.backbone
        assert (cfg['work_dir'], cfg['model']['backbone']) == ('mine', backbone)


def test_a_users_config_without_the_import_says_what_is_missing(tmp_path, installed):
    """The line of docs/troubleshooting.md."""
    (tmp_path / 'user.py').write_text("_base_ = 'mmvim::vim/vim-tiny_upernet_4xb8-60k_ade20k-512x512.py'\n")
    failed = read_each([tmp_path / 'user.py'], tmp_path, installed)
    symptom = 'mmengine does not support to load mmvim config'
    assert symptom in failed.stderr
    assert symptom in (ROOT / 'docs/troubleshooting.md').read_text('utf-8')


def test_bases_are_named_in_one_way():
    """A base that stock tools may not know stands in bases(); others need no import, and have none."""
    assignments = {
        node: file
        for file in CONFIGS.rglob('*.py')
        for node in ast.parse(file.read_text('utf-8')).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_'
    }
    assert len(assignments) > 100
    for node, file in assignments.items():
        text = ast.unparse(node.value)
        assert bool(re.search('mm(seg|vim)::', text)) == text.startswith("__import__('mmvim').bases("), file
