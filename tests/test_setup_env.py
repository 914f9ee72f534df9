"""tools/setup_env.sh: what it refuses, what it says when a step fails, and the pins it installs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(shutil.which('bash') is None, reason='bash is not installed')


def set_up(goal, **env):
    """Run the script with `env`; nothing in these tests gets as far as installing anything."""
    kept = {k: v for k, v in os.environ.items() if k not in ('STACK', 'VENV', 'PYTHON', 'KEEP_TORCH', 'CXX')}
    command = [ROOT / 'tools/setup_env.sh', *goal.split()]
    return subprocess.run(command, env={**kept, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def fake_python(folder, case):
    """An interpreter that is this one, except for the command lines that the shell pattern `case` names."""
    path = folder / 'python'
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{case}\nesac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ('goal', 'env', 'told'),
    [
        ('', {}, 'usage:'),
        ('tests', {}, 'usage:'),
        ('demo', {'STACK': 'mmlab'}, 'STACK=mmlab is unknown; use STACK=onedl or STACK=openmmlab'),
    ],
)
def test_wrong_use(goal, env, told, tmp_path):
    done = set_up(goal, VENV=str(tmp_path / 'venv'), **env)
    assert done.returncode == 2 and told in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_help_names_every_variable():
    text = set_up('--help').stdout
    read = set(re.findall(r'\$\{?([A-Z][A-Z_]+)[:}]', (ROOT / 'tools/setup_env.sh').read_text()))
    assert {name for name in read if name not in text} <= {'BASH_SOURCE', 'CXX'}


def test_an_old_python_is_refused(tmp_path):
    python = fake_python(tmp_path, '*version_info*) exit 1;;')
    done = set_up('demo', VENV=str(tmp_path / 'venv'), PYTHON=python)
    assert done.returncode == 1 and f'PYTHON={python} is not a Python of version 3.11 or later' in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_a_foreign_folder_is_left_alone(tmp_path):
    venv = tmp_path / 'venv'
    venv.mkdir()
    (venv / 'precious').write_text('')
    done = set_up('demo', VENV=str(venv))
    assert done.returncode == 1 and 'was not made by this script' in done.stderr
    assert [p.name for p in venv.iterdir()] == ['precious']


NO_TORCH = '-) exit 1;;'  # the question for a PyTorch comes on standard input


@pytest.mark.parametrize(
    ('message', 'told'),
    [
        ('ensurepip is not available', 'sudo apt install python3-venv'),
        ('[Errno 28] No space left on device', 'The disk is full'),
        ('something unheard of', '.setup/log'),
    ],
)
def test_a_failed_step_shows_its_log_and_a_remedy(tmp_path, message, told):
    python = fake_python(tmp_path, f'{NO_TORCH}\n*venv*) echo "{message}" >&2; exit 1;;')
    venv = tmp_path / 'venv'
    done = set_up('demo', VENV=str(venv), PYTHON=python)
    assert done.returncode == 1
    assert '[1/6] making' in done.stdout and 'step 1 of 6 failed' in done.stderr
    assert message in done.stderr and told in done.stderr and 'run the same command again' in done.stderr
    # the next run starts over where this one stopped
    again = set_up('demo', VENV=str(venv), PYTHON=python)
    assert '[1/6] making' in again.stdout and again.returncode == 1


def test_no_compiler_is_told_before_anything_is_installed(tmp_path):
    python = fake_python(tmp_path, NO_TORCH)
    done = set_up(
        'test',
        VENV=str(tmp_path / 'venv'),
        PYTHON=python,
        CXX='no-such-compiler',
        PIP_CACHE_DIR=str(tmp_path / 'empty'),
    )
    assert done.returncode == 1 and 'sudo apt install build-essential' in done.stderr
    assert '[1/' not in done.stdout


def test_families_do_not_share_an_environment(tmp_path):
    state = tmp_path / 'venv/.setup'
    state.mkdir(parents=True)
    (state / 'made_here').write_text('')
    (state / 'stack').write_text('onedl\n')
    (state / 'venv').write_text('')
    (tmp_path / 'venv/bin').mkdir()
    (tmp_path / 'venv/bin/python').symlink_to(sys.executable)
    done = set_up('demo', VENV=str(tmp_path / 'venv'), STACK='openmmlab')
    assert done.returncode == 1 and 'holds STACK=onedl' in done.stderr


def pins(name):
    lines = [re.split('[#;\\\\]', line)[0].strip() for line in (ROOT / 'requirements' / name).read_text().splitlines()]
    return dict(line.split('==') for line in lines if line and not line.startswith('--hash='))


def test_every_version_is_pinned_once():
    files = sorted(p.name for p in (ROOT / 'requirements').glob('*.txt'))
    assert files == ['build.txt', 'dev.txt', 'mim.txt', 'onedl.txt', 'openmmlab.txt', 'runtime.txt', 'torch.txt']
    seen = {}
    for file in files:
        for name in pins(file):
            first = seen.setdefault(name.lower(), file)
            assert first == file or file == 'mim.txt', (  # MIM has environments of its own
                f'{name} is pinned in {first} and in {file}'
            )
    # the one with windows needs system libraries and replaces the other one's files
    assert 'opencv-python-headless' in seen and 'opencv-python' not in seen
    assert int(pins('build.txt')['setuptools'].split('.')[0]) < 81, 'mmengine 0.10.7 needs pkg_resources'


def test_mmcv_is_compiled_as_the_newest_pytorch_needs(tmp_path):
    """Since 2.14 its headers need C++20, and mmcv asks for C++17 behind whatever else is asked for."""
    script = (ROOT / 'tools/setup_env.sh').read_text()
    function = re.search(r'^cpp20_compiler\(\).*?^}$', script, re.MULTILINE | re.DOTALL)[0]
    calls = f'{function}\nstate="{tmp_path}"\n"$(cpp20_compiler)" -c "a b.cpp" -O2 -std=c++17 -DX="y z"\n'
    echo = tmp_path / 'echo'
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    done = subprocess.run(['bash', '-c', calls], env={**os.environ, 'CXX': str(echo)}, capture_output=True, text=True)
    assert done.stdout.splitlines() == ['-c', 'a b.cpp', '-O2', '-std=c++20', '-DX=y z'], done.stderr
