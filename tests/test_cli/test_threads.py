"""On a CPU: threads, data workers, and how threads wait for work."""

import os
import subprocess
import sys

import pytest
import torch
from checkout import ROOT
from mmengine.config import Config

from mmvim.cli import machine, threads


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


BUSY = (9e3, 9e3, 9e3)


@pytest.mark.parametrize(
    ('load', 'users', 'sleep'),
    [(BUSY, {}, True), ((0.0, 9e3, 9e3), {}, False), *((BUSY, {name: '1'}, False) for name in threads.USERS_OWN)],
)
def test_threads_sleep_where_others_are_busy_unless_the_user_has_said_otherwise(load, users, sleep, monkeypatch):
    for name in threads.USERS_OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, 'getloadavg', lambda: load)
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert threads.let_threads_sleep() == sleep == threads.sleeping()
    assert os.environ.get('GOMP_SPINCOUNT') == ('1000' if sleep else before.get('GOMP_SPINCOUNT'))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    assert machine.fit_to_cpu(Config({}), ('train',)).endswith('threads that wait sleep') == sleep
    if sleep:
        del os.environ['GOMP_SPINCOUNT']


@pytest.mark.parametrize(
    'start', [('-m', 'mmvim', 'flops', '--help'), ('tools/train.py', '--help'), ('demo/demo.py', '--help')]
)
@pytest.mark.parametrize('load', [BUSY, (0.0, 0.0, 0.0)], ids=['busy', 'quiet'])
def test_it_is_decided_before_pytorch_is_there(start, load):
    """OpenMP reads its variables once, when it is loaded."""
    code = (
        'import sys, runpy, os\n'
        f'os.getloadavg = lambda: {load}\n'
        'class Watch:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        "        if name == 'torch':\n"
        "            print('spin', os.environ.get('GOMP_SPINCOUNT'), flush=True); os._exit(0)\n"
        'sys.meta_path.insert(0, Watch())\n'
        f'sys.argv = {list(start)[start[0] == "-m" :]!r}\n'
        f'runpy.{"run_module" if start[0] == "-m" else "run_path"}(sys.argv[0], run_name="__main__")'
    )
    env = {name: value for name, value in os.environ.items() if name not in threads.USERS_OWN}
    env['PYTHONPATH'] = str(ROOT)
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith('spin 1000' if load is BUSY else 'spin None'), done.stdout + done.stderr
