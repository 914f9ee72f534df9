"""What the tests of packaging build: a copy of the checkout, and archives of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from checkout import ROOT

LEFT_OUT = shutil.ignore_patterns('__pycache__', '*.pyc', '*.so', '.*')
# Where the libraries are, without the checkout itself: subprocesses run with -S and this path, so that an editable
# mmvim of the environment under test is not found there.
LIBRARIES = [p for p in sys.path if Path(p).name in ('site-packages', 'dist-packages')]


def run(*args, path=(), cwd, check=True, **variables):
    """Run this interpreter without its site-packages' links, with `path` before the libraries; no C++ is compiled."""
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([*map(str, path), *LIBRARIES]),
        'PYTHONDONTWRITEBYTECODE': '1',
        'MMVIM_BUILD_NATIVE': '0',
        **variables,
    }
    command = [sys.executable, '-S', '-W', 'ignore', *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=800)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def build(hook, tree, out, check=True, **variables):
    """Call a PEP 517 hook in `tree`; return the archive."""
    out.mkdir(exist_ok=True)
    code = f'import sys; from setuptools.build_meta import {hook}; open(sys.argv[2], "w").write({hook}(sys.argv[1]))'
    done = run('-c', code, out, out / 'name', cwd=tree, check=check, **variables)
    return out / (out / 'name').read_text() if done.returncode == 0 else done


def copy_tree(target):
    """Copy what a build reads from the checkout, and what it must leave out."""
    target.mkdir()
    for name in ('mmvim', 'configs', 'tools', 'demo', 'docs', 'tests'):
        shutil.copytree(ROOT / name, target / name, ignore=LEFT_OUT)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, target / name)
    return target
