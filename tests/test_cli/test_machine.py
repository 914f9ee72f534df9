"""Freed memory is kept where the tools ask for it, and the user's own settings stand."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from checkout import ROOT
from mmengine.config import Config

from mmvim.cli import commands, machine

# How much more memory is resident after a tensor of 30 MiB has come and gone, in MiB.
PROGRAM = """
import torch
from mmvim.cli import keep_freed_memory
done = {keep} and keep_freed_memory()
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * {page} / 2**20
before = resident()
torch.ones(30 << 18)
print(done, resident() - before)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc is told')


def run(keep: bool) -> tuple[bool, float]:
    """Whether it was done, and how much stayed."""
    program = PROGRAM.format(keep=keep, page=os.sysconf('SC_PAGE_SIZE'))
    done, stayed = subprocess.check_output([sys.executable, '-c', program], text=True).split()
    return done == 'True', float(stayed)


@pytest.mark.slow
def test_freed_memory_is_kept(monkeypatch):
    for name in (*machine.USERS_OWN, 'LD_PRELOAD'):
        monkeypatch.delenv(name, raising=False)
    assert run(False)[1] < 15
    done, stayed = run(True)
    assert done and stayed > 25


@pytest.mark.parametrize('name', machine.USERS_OWN)
def test_the_users_settings_stand(monkeypatch, name):
    monkeypatch.setenv(name, '1000000')
    assert not machine.keep_freed_memory()


@pytest.mark.parametrize(
    ('cores', 'workers', 'left', 'line'),
    [
        (2, 4, 1, 'CPU: 1 thread, 1 data worker (4 in the config)'),
        (8, 4, 4, 'CPU: 1 thread, 4 data workers'),
        (1, 2, 0, 'CPU: 1 thread, 0 data workers (2 in the config)'),
    ],
)
def test_a_core_is_left_to_the_run(cores, workers, left, line, monkeypatch):
    monkeypatch.setattr(machine, 'core_count', lambda: cores)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    loader = {'num_workers': workers, 'persistent_workers': True, 'prefetch_factor': 2, 'batch_size': 1}
    cfg = Config({'train_dataloader': loader, 'val_dataloader': {'num_workers': 0}})
    assert machine.fit_to_cpu(cfg, ('train', 'val')) == line
    assert cfg.train_dataloader.num_workers == left
    options = {name: value for name, value in cfg.train_dataloader.items() if name != 'batch_size'}
    torch.utils.data.DataLoader([1, 2], **options)  # which refuses prefetching without workers


def test_threads_sleep_unless_the_user_has_said_otherwise(monkeypatch):
    for name in commands.USERS_OWN:
        monkeypatch.delenv(name, raising=False)
    assert commands.let_threads_sleep() and os.environ['GOMP_SPINCOUNT'] == '1000'
    monkeypatch.delenv('GOMP_SPINCOUNT')
    monkeypatch.setenv('OMP_WAIT_POLICY', 'ACTIVE')
    assert not commands.let_threads_sleep() and 'GOMP_SPINCOUNT' not in os.environ


@pytest.mark.parametrize('start', [('-m', 'mmvim', 'flops', '--help'), ('tools/train.py', '--help')])
def test_threads_sleep_before_pytorch_is_there(start):
    """OpenMP reads its variables once, when it is loaded."""
    code = (
        'import sys, runpy, os\n'
        'class Watch:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        "        if name == 'torch':\n"
        "            print('spin', os.environ.get('GOMP_SPINCOUNT')); sys.meta_path.remove(self)\n"
        'sys.meta_path.insert(0, Watch())\n'
        f'sys.argv = {list(start)[start[0] == "-m" :]!r}\n'
        f'runpy.{"run_module" if start[0] == "-m" else "run_path"}(sys.argv[0], run_name="__main__")'
    )
    env = {name: value for name, value in os.environ.items() if name not in commands.USERS_OWN}
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env={**env, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.startswith('spin 1000'), done.stdout + done.stderr
