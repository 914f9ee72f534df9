"""The tutorial, as a newcomer follows it: every block in its order, in an empty folder, with shorter trainings."""

import os
import re
import shlex
import subprocess
import sys

import cv2
import pytest
from pages import ROOT, code

from mmvim.cli import load_config

PAGE = ROOT / 'docs/tutorial.md'
BLOCK = re.compile(r'^```(python|shell)\n(.*?)^```', re.MULTILINE | re.DOTALL)
SHORTER = {  # in what the page has: enough to take every step of it
    'plants.py': {
        'iterations = 300': 'iterations = 2',
        'begin=0, end=30': 'begin=0, end=1',
        'begin=30': 'begin=1',
        'val_interval=100': 'val_interval=2',
    },
    'leaves.py': {'max_epochs=4, val_interval=4': 'max_epochs=1, val_interval=1', 'end=16': 'end=2'},
    'make_plants.py': {"('training', 64), ('validation', 16)": "('training', 8), ('validation', 2)"},
}
NAMES = {'iter_300.pth': 'iter_2.pth', 'epoch_4.pth': 'epoch_1.pth'}


def blocks():
    """Every block: (file, text) of a file that is to be written, ('', command) of each command."""
    found = []
    for language, text in BLOCK.findall(PAGE.read_text('utf-8')):
        if language == 'python':
            found.append((re.match(r'# (\w+\.py)\n', text)[1], text))
        else:
            found += [('', line) for line in text.splitlines()]
    return found


def write(folder, name, text):
    for old, new in SHORTER.get(name, {}).items():
        assert text.count(old) == 1, f'{old!r} is not in {name}: change this test with the page'
        text = text.replace(old, new)
    for old, new in NAMES.items():
        text = text.replace(old, new)
    (folder / name).write_text(text)


def run(folder, command, environment):
    for old, new in NAMES.items():
        command = command.replace(old, new)
    program, *arguments = shlex.split(command, comments=True)
    start = {'python': [sys.executable], 'mmvim': [sys.executable, '-m', 'mmvim']}[program]
    done = subprocess.run(
        [*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch):
    pytest.importorskip('mmcv._ext', reason="the detector needs mmcv's compiled operators")
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    printed = {}
    for name, text in blocks():
        if name:
            write(tmp_path, name, text)
        else:
            printed[text] = run(tmp_path, text, dict(os.environ))
    assert len(printed) == 9
    assert '8 of 8 samples looked at, labels 0, 1, 2, 255' in printed['mmvim train plants.py --check']
    assert (tmp_path / 'work_dirs/samples/samples.png').stat().st_size > 10_000
    assert len(list((tmp_path / 'work_dirs/plants/pictures').rglob('*.png'))) == 2
    assert re.search(r"\{'leaf': \d+, 'stem': \d+, 'soil': \d+\}", printed['python predict.py'])
    assert 'mIoU' in printed['mmvim test plants.py work_dirs/plants/iter_300.pth --show-dir work_dirs/plants/pictures']
    assert 'segm_mAP' in printed['mmvim test leaves.py work_dirs/leaves/epoch_4.pth']


@pytest.mark.slow
def test_the_wrong_habit_of_masks_is_seen(tmp_path, monkeypatch):
    """What the page warns of: masks that count from 0, read as if 0 were no class, lose their first."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    files = dict(block for block in blocks() if block[0])
    for name in ('make_plants.py', 'plants.py'):
        write(tmp_path, name, files[name])
    run(tmp_path, 'python make_plants.py', dict(os.environ))
    for path in (tmp_path / 'data/plants/annotations').rglob('*.png'):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[mask > 0] -= 1
        cv2.imwrite(str(path), mask)
    assert '8 of 8 samples looked at, labels 0, 1, 255' in run(
        tmp_path, 'mmvim train plants.py --check', dict(os.environ)
    )


@pytest.mark.slow
def test_what_to_leave_out_on_a_gpu(tmp_path):
    """What the page says of it leaves a config with the recipe's sizes, pipelines and schedule."""
    text = dict(block for block in blocks() if block[0])['plants.py']
    for pattern in (
        r'^(crop_size|norm_cfg) = .*\n',
        r'^ +data_preprocessor=.*\n',
        r'channels=64, |, norm_cfg=norm_cfg',
        r'^(train|test)_pipeline = \[\n(    .*\n)+\]\n',
        r'^iterations = (.*\n)+',
        r'dict\(plants, pipeline=\w+\)',
    ):
        text, number = re.subn(pattern, 'plants' if pattern.startswith('dict') else '', text, flags=re.MULTILINE)
        assert number, pattern
    (tmp_path / 'plants.py').write_text(text)
    cfg = load_config(str(tmp_path / 'plants.py'))
    data = cfg.train_dataloader.dataset
    assert data.data_root == 'data/plants' and data.metainfo.classes == ('leaf', 'stem', 'soil')
    assert {'type': 'RandomCrop', 'crop_size': (512, 512), 'cat_max_ratio': 0.75} in data.pipeline
    assert cfg.model.data_preprocessor['size'] == (512, 512) and cfg.train_cfg.max_iters == 160000
    assert (cfg.model.decode_head.num_classes, cfg.model.decode_head.channels) == (3, 256)


def test_code_blocks_of_the_page_name_their_files():
    text = PAGE.read_text('utf-8')
    assert all(re.match(r'# \w+\.py\n', block) for block in code(text, 'python'))
