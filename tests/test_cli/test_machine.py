"""Freed memory is kept where the tools ask for it, and the user's own settings stand."""

import os
import platform
import subprocess
import sys

import pytest

from mmvim.cli import machine

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
