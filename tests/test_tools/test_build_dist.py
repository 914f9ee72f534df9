"""The wheel and the sdist are the same to the byte from two copies of a tree, and nothing else is."""

import shutil
import tarfile
import zipfile

import pytest
from checkout import load_tool
from packages import copy_tree, run

pytestmark = pytest.mark.slow  # builds


@pytest.fixture(scope='module')
def tool():
    return load_tool('build_dist.py')


@pytest.fixture(scope='module')
def first(tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp('first')
    return tool.build(copy_tree(folder / 'tree'), folder / 'out', 1_700_000_000)


def test_two_copies_give_the_same_bytes(tool, first, tmp_path):
    tree = copy_tree(tmp_path / 'another place')
    tool.disturb(tree)
    again = tool.build(tree, tmp_path / 'out', 1_700_000_000, TZ='Asia/Kolkata', LC_ALL='C', PYTHONHASHSEED='7')
    assert tool.digests(again) == tool.digests(first)


def test_what_is_in_them_depends_on_nothing(first):
    sdist, wheel = first
    with zipfile.ZipFile(wheel) as archive:
        assert {member.date_time for member in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        modes = {member.filename: member.external_attr >> 16 & 0o777 for member in archive.infolist()}
        names = [member.filename for member in archive.infolist()]
        assert archive.testzip() is None
    assert set(modes.values()) == {0o644, 0o755} and modes['mmvim/.mim/tools/setup_env.sh'] == 0o755
    assert names == sorted(names, key=lambda name: ('.dist-info/' in name, name))
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(1_700_000_000, 0, 0, '', '')}
    assert {m.mode for m in members} == {0o644, 0o755}
    assert int.from_bytes(sdist.read_bytes()[4:8], 'little') == 1_700_000_000


def test_another_source_or_time_gives_others(tool, first, tmp_path):
    """The control: the comparison sees a byte."""
    tree = copy_tree(tmp_path / 'tree')
    later = tool.build(tree, tmp_path / 'later', 1_700_000_002)
    with (tree / 'mmvim/registry.py').open('a') as file:
        file.write('\n')
    shutil.rmtree(tree / 'build', ignore_errors=True)
    changed = tool.build(tree, tmp_path / 'changed', 1_700_000_000)
    digests = [tool.digests(made).split() for made in (first, later, changed)]
    for place in (0, 2):  # of the sdist, of the wheel
        assert len({words[place] for words in digests}) == 3


def test_the_rewritten_wheel_installs(first, tmp_path):
    site = tmp_path / 'site'
    run('-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', site, first[1], cwd=tmp_path)
    assert run('-c', 'import mmvim; print(mmvim.__file__)', path=[site], cwd=tmp_path).stdout.startswith(str(site))


def test_another_setuptools_is_named(tool):
    assert tool.check_setuptools('setuptools==1.2.3 \\\n    --hash=sha256:0\n').endswith(
        'build.txt pins 1.2.3; pip install -r requirements/build.txt'
    )
