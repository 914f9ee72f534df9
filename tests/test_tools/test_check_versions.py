"""tools/check_versions.sh: its table is of its results, and a run goes on where it was stopped."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from checkout import ROOT

SCRIPT = ROOT / 'tools/check_versions.sh'
pytestmark = pytest.mark.skipif(
    shutil.which('git') is None or shutil.which('bash') is None, reason='needs git and bash'
)


def rows():
    done = subprocess.run([SCRIPT, '--list'], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def results():
    for path in sorted((ROOT / 'tests/versions').glob('*.txt')):
        yield path.stem, dict(line.split('=', 1) for line in path.read_text().splitlines() if '=' in line)


def test_each_row_has_a_line_in_the_table():
    lines = [line for line in (ROOT / 'docs/versions.md').read_text().splitlines() if line.startswith('| 3.')]
    found = dict(results())
    assert set(found) <= {row[0] for row in rows()}
    for (name, python, torch, family, what, part), line in zip(rows(), lines, strict=True):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[0].startswith(python) and cells[2:5] == [family, what, part]
        if name in found:
            result = found[name]
            assert cells[5] == result['passed'] and int(result['passed']) > 0, name
            assert int(cells[6]) == int(result['failed']) + int(result['error'])
            assert torch == 'newest' or cells[1].startswith(torch)
        else:
            assert cells[5] == 'not run'


def test_the_hosted_run_has_each_row():
    workflow = yaml.safe_load((ROOT / '.github/workflows/versions.yml').read_text())
    assert workflow['jobs']['row']['strategy']['matrix']['row'] == [row[0] for row in rows()]


FAKE_PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && exit; fi
if [ "$2" = pip ]; then exit; fi
PYTHONPATH={modules} exec {python} "$@"
"""


@pytest.fixture
def project(tmp_path):
    """A repository with two folders of tests, and an interpreter whose PyTorch is a version and nothing else."""
    root, modules = tmp_path / 'project', tmp_path / 'modules'
    for folder in (root / 'tools', root / 'tests/test_a', root / 'docs', modules):
        folder.mkdir(parents=True)
    shutil.copy(SCRIPT, root / 'tools')
    (root / 'tools/setup_env.sh').write_text('#!/bin/sh\necho "$1 $STACK" >>"$(dirname "$VENV")/calls"\n')
    (root / 'tools/setup_env.sh').chmod(0o755)
    (root / 'requirements').mkdir()
    (root / 'requirements/torch.txt').write_text('torch==2.13.0\n')
    # MMEngine, too, prints at the end, behind pytest's own last line.
    (root / 'tests/test_a/test_one.py').write_text(
        "import atexit\n\natexit.register(print, 'what a library says: 5 passed')\n\n\ndef test_one():\n    pass\n"
    )
    (root / 'tests/test_two.py').write_text(
        'import pytest\n\ndef test_bad():\n    assert 0\n\n@pytest.mark.skip\ndef test_left():\n    pass\n'
    )
    for name in ('torch', 'mmengine', 'mmcv', 'mmseg'):
        (modules / f'{name}.py').write_text("__version__ = '9.8'\n")
    (modules / 'mmdet.py').write_text('raise ImportError\n')
    python = tmp_path / 'python'
    python.write_text(FAKE_PYTHON.format(modules=modules, python=sys.executable))
    python.chmod(0o755)
    git = ('git', '-C', root, '-c', 'user.name=x', '-c', 'user.email=x@example.org')
    for words in (('init', '-q'), ('add', '-A'), ('commit', '-qm', 'x')):
        subprocess.run([*git, *words], check=True)

    def call(*words):
        env = {**os.environ, 'PYTHON_3_11': str(python), 'VERSIONS_DIR': str(tmp_path / 'work'), 'PYTEST_ADDOPTS': ''}
        return subprocess.run([root / 'tools/check_versions.sh', *words], env=env, capture_output=True, text=True)

    return root, tmp_path / 'work', call


@pytest.mark.slow
def test_a_row_is_run_and_resumed(project):
    root, work, call = project
    row = 'py311-torch213-onedl'
    done = call(row)
    assert done.returncode == 0, done.stderr
    text = (root / f'tests/versions/{row}.txt').read_text()
    for line in ('torch=9.8', 'mmdet=none', 'passed=1', 'failed=1', 'error=0', 'skipped=1'):
        assert line in text.splitlines(), text
    assert 'FAILED tests/test_two.py::test_bad' in text
    assert (work / row / 'calls').read_text() == 'test onedl\n'
    assert '| 9.8 | onedl | ops | all | 1 | 1 | 1 | ' in (root / 'docs/versions.md').read_text()
    # finished rows are left out; of one that was stopped, the finished folders
    assert call(row).stdout == f'{row}: done\n'
    (root / f'tests/versions/{row}.txt').unlink()
    (work / row / 'logs/test_two-py.log').unlink()
    (work / row / 'logs/test_a.log').write_text('7 passed in 1s\n')
    # with the commit of the copy, though HEAD has moved since it was made
    git = ('git', '-C', root, '-c', 'user.name=x', '-c', 'user.email=x@example.org')
    first = subprocess.run([*git, 'rev-parse', '--short=12', 'HEAD'], capture_output=True, text=True, check=True)
    subprocess.run([*git, 'commit', '-qm', 'x', '--allow-empty'], check=True)
    again = call(row)
    assert f'commit={first.stdout.strip()}' in (root / f'tests/versions/{row}.txt').read_text().splitlines()
    assert 'tests/test_a:' not in again.stdout and 'tests/test_two.py:' in again.stdout
    assert 'passed=7' in (root / f'tests/versions/{row}.txt').read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize('fails', ['setup_env.sh', 'pytest'])
def test_a_row_that_cannot_be_run_has_no_result(project, fails):
    root, _, call = project
    if fails == 'pytest':
        (root / 'tests/test_a/test_one.py').write_text('import os\n\nos._exit(1)\n')
    else:
        (root / 'tools/setup_env.sh').write_text('#!/bin/sh\nexit 1\n')
    git = ('git', '-C', root, '-c', 'user.name=x', '-c', 'user.email=x@example.org')
    subprocess.run([*git, 'commit', '-qam', 'x'], check=True)
    done = call('py311-torch213-onedl')
    words = 'pytest has not run on tests/test_a' if fails == 'pytest' else 'the set-up failed; see'
    assert done.returncode == 1 and words in done.stderr
    assert not list((root / 'tests/versions').glob('*.txt'))


def test_an_unknown_row(project):
    done = project[2]('py27')
    assert done.returncode == 1 and "there is no row 'py27'; see tools/check_versions.sh --list" in done.stderr
