"""The names appear when they are asked for and not before, never in an original's place, and say what there is."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmvim.compat import install, remove, served
from mmvim.compat.names import SERVED, TOP_LEVEL

ROOT = Path(__file__).resolve().parents[2]
LISTED = 'selective_scan_cuda_oflex (fwd, bwd)'
THERE = list(install())
remove()
pytestmark = pytest.mark.skipif(bool(THERE), reason=f'originals are installed: {THERE}')


def run(*arguments, cwd, path=(), check=True):
    """Run Python with this checkout, as a user does."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *map(str, path)]), 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def stand_in(folder, name='mamba_ssm', text='WHOSE = "theirs"\n'):
    """Write a package that stands for an installed original."""
    package = folder / name
    package.mkdir(parents=True)
    (package / '__init__.py').write_text(text)
    return folder


def test_every_name_is_there(names_served):
    for module, names in SERVED.items():
        found = importlib.import_module(module)
        assert sorted(name for name in vars(found) if not name.startswith('__') and name in names) == sorted(names)
        assert all(getattr(found, name).__doc__ for name in names)


def test_asking_again_changes_nothing(names_served, capsys):
    finders = list(sys.meta_path)
    assert install() == {} and sys.meta_path == finders and capsys.readouterr().err == ''


def test_removing_is_complete():
    install()
    import selective_scan_cuda_core

    remove()
    assert selective_scan_cuda_core.__name__ not in sys.modules
    assert [name for name in TOP_LEVEL if importlib.util.find_spec(name)] == []


@pytest.mark.parametrize(
    ('code', 'name'),
    [
        ('import mamba_ssm.models.mixer_seq_simple', 'mamba_ssm.models'),
        ('from mamba_ssm.ops import triton2', 'mamba_ssm.ops.triton2'),
        ('from mamba_ssm.ops.selective_scan_interface import easy', 'mamba_ssm.ops.selective_scan_interface.easy'),
        ('from mamba_ssm import Mamba2', 'mamba_ssm.Mamba2'),
        ('import selective_scan_cuda_backnrow', 'selective_scan_cuda_backnrow'),
        ('from causal_conv1d.cpp_functions import causal_conv1d_fwd_function', 'causal_conv1d.cpp_functions'),
    ],
)
def test_other_names_raise_with_the_list(names_served, code, name):
    with pytest.raises(ImportError) as error:
        exec(code, {})
    assert str(error.value).startswith(f'mmvim.compat does not serve {name}; it serves mamba_ssm (')
    assert LISTED in str(error.value)


def test_other_attributes_raise_with_the_list(names_served):
    import selective_scan_cuda

    with pytest.raises(AttributeError) as error:
        selective_scan_cuda.fwd2  # noqa: B018
    assert LISTED in str(error.value) and 'selective_scan_cuda.fwd2' in str(error.value)
    assert not hasattr(selective_scan_cuda, 'fwd2') and not hasattr(selective_scan_cuda, '__file__')


def test_served_lists_what_is_served():
    assert 'mamba_ssm.ops' not in served() and served()['selective_scan_cuda'] == ('fwd', 'bwd')


SCRIPT = """
import sys
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from causal_conv1d import causal_conv1d_fn
import selective_scan_cuda_oflex
import torch
u = torch.ones(1, 2, 4, requires_grad=True)
A, B = -torch.ones(2, 3), torch.ones(1, 3, 4)
y = selective_scan_fn(u, 0.5 * torch.ones(1, 2, 4), A, B, B, delta_softplus=False)
y.sum().backward()
y = [round(v, 4) for v in y[0, 0].tolist()]
print(__name__, sys.argv[1:], sys.path[0] == sys.argv[-1], y, bool(u.grad.abs().sum() > 0))
sys.exit(3)
"""
NOTHING = """
import sys
import mmvim.compat
import mmvim.ops
assert 'mmvim.compat.inner' not in sys.modules
try:
    import mamba_ssm
except ModuleNotFoundError as error:
    assert error.name == 'mamba_ssm', error
else:
    raise SystemExit('mamba_ssm was served without being asked for')
import mmvim.compat.mamba_ssm
import mamba_ssm
"""


@pytest.mark.slow
def test_a_script(tmp_path):
    folder = tmp_path / 'theirs'
    folder.mkdir()
    script = folder / 'main.py'
    script.write_text(SCRIPT)
    without = run(script, cwd=tmp_path, check=False)
    assert without.returncode == 1 and "No module named 'mamba_ssm'" in without.stderr
    done = run('-m', 'mmvim.compat.mamba_ssm', script, '--lr', '1', folder, cwd=tmp_path, check=False)
    assert done.returncode == 3 and done.stderr == '', done.stderr
    arguments = ['--lr', '1', str(folder)]
    assert done.stdout == f'__main__ {arguments} True [1.5, 2.4098, 2.9616, 3.2963] True\n'


@pytest.mark.slow
def test_nothing_happens_unasked(tmp_path):
    run('-c', NOTHING, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('beside', [True, False], ids=['beside-the-script', 'installed'])
def test_an_original_keeps_its_place(tmp_path, beside):
    folder = tmp_path / 'theirs'
    stand_in(folder if beside else tmp_path / 'site')
    folder.mkdir(exist_ok=True)
    script = folder / 'main.py'
    script.write_text(
        'import mamba_ssm\n'
        'import selective_scan_cuda\n'
        'try:\n'
        '    import mamba_ssm.ops\n'
        'except ModuleNotFoundError as error:\n'
        '    print(error)\n'
        'print(mamba_ssm.WHOSE, selective_scan_cuda.fwd.__module__)\n'
    )
    done = run('-m', 'mmvim.compat.mamba_ssm', script, cwd=tmp_path, path=[tmp_path / 'site'])
    assert done.stdout == "No module named 'mamba_ssm.ops'\ntheirs mmvim.compat.scan_kernels\n"
    assert done.stderr.startswith('mmvim.compat: installed, so they are used and not replaced: mamba_ssm (')
    assert done.stderr.count('\n') == 1 and 'selective_scan_cuda' not in done.stderr


def test_an_original_that_is_imported_already(monkeypatch, capsys):
    import types

    module = types.ModuleType('causal_conv1d')
    monkeypatch.setitem(sys.modules, 'causal_conv1d', module)
    try:
        assert install() == {'causal_conv1d': 'imported already'}
        assert importlib.import_module('causal_conv1d') is module
        assert importlib.import_module('causal_conv1d_cuda') is not None
        assert capsys.readouterr().err.count('causal_conv1d (imported already)') == 1
    finally:
        remove()
    assert sys.modules['causal_conv1d'] is module


@pytest.mark.slow
def test_a_module_and_mistakes(tmp_path):
    (tmp_path / 'theirs.py').write_text(
        'import sys, mamba_ssm\nprint(__name__, sys.argv[1:], mamba_ssm.__spec__.origin)\n'
    )
    done = run('-m', 'mmvim.compat.mamba_ssm', '-m', 'theirs', 'a', cwd=tmp_path)
    assert done.stdout == "__main__ ['a'] mmvim\n"


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [(['gone.py'], 'gone.py is not a file'), (['-m'], '-m needs the name of a module')],
)
def test_mistakes_are_one_line(arguments, words):
    from mmvim.compat.run import main

    with pytest.raises(SystemExit, match=words):
        main(arguments)


@pytest.mark.parametrize('arguments', [[], ['--help']])
def test_help_says_what_is_served(arguments, capsys):
    from mmvim.compat.run import main

    main(arguments)
    text = capsys.readouterr().out
    assert text.startswith('usage: python -m mmvim.compat.mamba_ssm SCRIPT')
    assert all(f'  {module}: {", ".join(names)}\n' in text + '\n' for module, names in served().items())


PAGE = (ROOT / 'docs/dropin.md').read_text('utf-8')


def test_the_page_names_what_is_served():
    rows = [line.split('|')[1:3] for line in PAGE.splitlines() if line.startswith('| `')]
    listed = {}
    for modules, names in rows:
        listed |= dict.fromkeys(re.findall(r'`([^`]+)`', modules), frozenset(re.findall(r'`([^`]+)`', names)))
    assert set(listed) == set(served())
    assert [module for module, names in served().items() if not listed[module].issuperset(names)] == []


def test_the_pages_example(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmvim.compat.mamba_ssm', raising=False)  # as if nothing had asked before
    program = next(block for block in re.findall(r'^```python\n(.*?)^```', PAGE, re.M | re.S) if 'print(' in block)
    try:
        exec(compile(program, 'docs/dropin.md', 'exec'), {})
    finally:
        remove()
    assert capsys.readouterr().out == program.splitlines()[-1].removeprefix('# ') + '\n'
