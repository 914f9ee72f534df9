"""What commands and maintainers' tools write is there as a whole or not at all, whenever they are interrupted."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
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
