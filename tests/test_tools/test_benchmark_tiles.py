"""The benchmark of tiles measures what it says, and stops what takes too much."""

import mmap
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from checkout import ROOT

TOOL = ROOT / 'tools' / 'analysis_tools' / 'benchmark_tiles.py'
QUICK = ['--classes', '2', '--tile', '32', '--overlap', '8']


_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import benchmark_tiles

    return benchmark_tiles


def test_the_peak(tool):
    # pages of the system's, for the allocator may have kept some of other tests' tensors
    with tool.Peak(limit=10**12) as peak, mmap.mmap(-1, 32 * 10**6, flags=_ANONYMOUS) as pages:
        for start in range(0, len(pages), 4096):
            pages[start] = 1
        deadline = time.monotonic() + 30
        while peak.most < 20e6 and time.monotonic() < deadline:  # it is looked up now and then
            time.sleep(0.01)
        torch.ones(10**4)
    assert 20e6 < peak.most < 200e6


def test_a_picture_of_noise(tool, tmp_path):
    tool.make_picture(tmp_path / 'a.npy', 300)
    found = np.load(tmp_path / 'a.npy')
    assert found.shape == (300, 300, 3) and found.dtype == np.uint8 and 120 < found.mean() < 135


@pytest.mark.parametrize('way', ['tiles', pytest.param('test', marks=pytest.mark.slow), 'inferencer', 'slide', 'whole'])
def test_each_way(way, tool, tmp_path, monkeypatch, quick_runners):
    pytest.importorskip('mmseg')
    monkeypatch.setattr(sys, 'argv', ['benchmark_tiles.py', *QUICK, '--cfg-options', 'model.decode_head.channels=32'])
    args = tool.parse_args()
    tool.make_picture(tmp_path / 'a.npy', 80)
    found = tool.measure(way, str(tmp_path / 'a.npy'), args)
    assert found['bytes'] >= 0 and found['seconds'] > 0
    assert (tmp_path / 'labels.npy').exists() == (way == 'tiles')


@pytest.mark.full
def test_table(tmp_path):
    pytest.importorskip('mmseg')
    options = ['--sides', '64', '--ways', 'tiles', *QUICK, '--markdown', str(tmp_path / 'table.md')]
    subprocess.run([sys.executable, str(TOOL), *options], check=True, capture_output=True)
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert lines[2].startswith('| side | way |') and lines[4].startswith('| 64 | tiles | ')
    big = ['--sides', '900', '--ways', 'whole', *QUICK, '--limit', '1', '--markdown', str(tmp_path / 'stopped.md')]
    subprocess.run([sys.executable, str(TOOL), *big], check=True, capture_output=True)
    assert '| 900 | whole | more than 1 | - | - |' in (tmp_path / 'stopped.md').read_text()
