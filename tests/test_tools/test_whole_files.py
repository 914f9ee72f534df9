"""What commands and maintainers' tools write is there as a whole or not at all, whenever they are interrupted."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkout import load_tool
from PIL import Image

from mmvim.analysis.media import Media
from mmvim.cli.commands import demo, predict, samples, visualize

BEFORE = b'what was there before'


@pytest.fixture
def interrupted(monkeypatch):
    """Writing ends in Ctrl-C when half of it is done."""
    save = Image.Image.save

    def half(content, file, *args, **kwargs):
        if not isinstance(file, (str, os.PathLike)):  # Matplotlib's, in memory
            return save(content, file, *args, **kwargs)
        Path(file).write_bytes(b'half of it')
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, 'save', half)
    monkeypatch.setattr(Path, 'write_text', lambda path, *args, **kwargs: half(None, path))
    monkeypatch.setattr(np, 'savez_compressed', lambda file, **arrays: half(None, file))


@pytest.fixture
def stays(interrupted, tmp_path):
    """Check that what is interrupted leaves a file as it was, and none beside it."""

    def check(name, write):
        folder = tmp_path / 'out'
        folder.mkdir()
        (folder / name).write_bytes(BEFORE)
        with pytest.raises(KeyboardInterrupt):
            write(folder)
        assert (folder / name).read_bytes() == BEFORE
        return [path.name for path in folder.iterdir() if path.name != name]

    return check


@pytest.mark.parametrize(
    ('name', 'labels'), [('a.png', np.zeros((4, 4), np.int64)), ('a.npz', None)], ids=['labels', 'arrays']
)
def test_predict(name, labels, stays):
    prediction = SimpleNamespace(labels=labels, outputs={'output': np.zeros(3)})
    assert not stays(name, lambda folder: predict._write(None, prediction, folder / 'a'))


def test_demo(stays, monkeypatch):
    sheet = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(demo, '_read', lambda painter, file: sheet)
    picture = Media('picture', 'a.png', 'a')
    drawn = SimpleNamespace(with_legend=lambda: sheet)
    assert not stays('a.png', lambda folder: demo._draw_pictures(lambda image: drawn, [picture], folder, False))


def test_samples(seg, stays):
    assert not stays('samples.png', lambda folder: samples.main([str(seg), '--out', str(folder), '--count', '1']))


@pytest.mark.parametrize(('kind', 'ending'), [('paths', 'png'), ('page', 'html')])
def test_visualize(kind, ending, stays):
    name = f'a.{ending}'
    assert not stays(name, lambda folder: visualize.main([kind, '--orders', 'row', '--out', str(folder / name)]))


def test_sums_of_the_pins(stays, monkeypatch):
    tool = load_tool('pin_hashes.py')
    monkeypatch.setattr(tool, 'resolve', lambda *args: {'packages': []})
    monkeypatch.setattr('sys.argv', ['pin_hashes.py'])

    def write(folder):
        monkeypatch.setattr(tool, 'FOLDER', folder)
        tool.main()

    assert stays('a.txt', write) == ['a.txt.partial']


def test_licences(stays, monkeypatch):
    tool = load_tool('licences.py')
    monkeypatch.setattr(tool, 'pins', dict)
    monkeypatch.setattr('sys.argv', ['licences.py'])

    def write(folder):
        monkeypatch.setattr(tool, 'TABLE', folder / 'a.md')
        tool.main()

    assert stays('a.md', write) == ['a.md.partial']


@pytest.mark.parametrize('same', [True, False])
def test_archives(same, tmp_path, monkeypatch):
    """Those that differ from a second build of the same commit are not handed out."""
    tool, builds = load_tool('build_dist.py'), []

    def build(tree, out, epoch, **variables):
        builds.append(out)
        out.mkdir()
        (out / 'a.whl').write_text('a' if same else str(len(builds)))
        return [out / 'a.whl']

    monkeypatch.setattr(tool, 'build', build)
    monkeypatch.setattr(tool, 'git', lambda *words, **_: b'7')
    monkeypatch.setattr(tool, 'export', lambda commit, folder: folder)
    monkeypatch.setattr(tool, 'check_setuptools', lambda pins: None)
    monkeypatch.setattr('sys.argv', ['build_dist.py', '--check', '--out', str(tmp_path / 'dist')])
    if same:
        tool.main()
        assert sorted(path.name for path in (tmp_path / 'dist').iterdir()) == ['SHA256SUMS', 'a.whl']
        assert (tmp_path / 'dist/SHA256SUMS').read_text().endswith('  a.whl\n')
    else:
        with pytest.raises(SystemExit, match='error: two builds of 7 differ'):
            tool.main()
        assert not (tmp_path / 'dist').exists()
    assert len(builds) == 2
