"""Instances lie where they are drawn; a table holds its pictures."""

import numpy as np
import pytest
from PIL import Image

from mmvim.analysis.instances import COLOURS, GAP, HEAD, draw_instances, picture_table


def test_an_instance_is_tinted_and_framed():
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 20:35, 15:45] = True
    drawn = draw_instances(image, np.array([[15, 20, 45, 35]]), mask, [1], ['a', 'b'], zoom=2)
    assert drawn.shape == (80, 120, 3) and (image == 100).all()
    assert (drawn[40, 30:90] == COLOURS[1]).all(), 'the upper edge of the box'
    assert np.abs(drawn[60, 60] - (0.55 * 100 + 0.45 * COLOURS[1])).max() <= 1
    assert (drawn[75:, :] == 100).all() and (drawn[:, 100:] == 100).all()
    assert (draw_instances(image, np.zeros((0, 4)), mask[:0], [], ['a']) == image).all()


def test_what_does_not_fit_is_refused(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match='1 boxes, 0 masks and 1 labels'):
        draw_instances(image, np.zeros((1, 4)), np.zeros((0, 4, 6)), [0], ['a'])
    with pytest.raises(ValueError, match='do not fit'):
        draw_instances(image, np.zeros((1, 4)), np.zeros((1, 6, 4)), [0], ['a'])
    for rows in ([], [[image]], [[image, image[:2]]]):
        with pytest.raises(ValueError, match='a table of 2 columns'):
            picture_table(tmp_path / 'table.png', rows, ['x', 'y'])
    assert not list(tmp_path.iterdir())


def test_table(tmp_path):
    pictures = [np.full((30, 50, 3), value, np.uint8) for value in (10, 90)]
    picture_table(tmp_path / 'table.png', [pictures, pictures[::-1]], ['x', 'y'])
    table = np.array(Image.open(tmp_path / 'table.png'))
    assert table.shape == (HEAD + 2 * (30 + GAP), 2 * (50 + GAP) + GAP, 3)
    assert (table[HEAD : HEAD + 30, GAP : GAP + 50] == 10).all() and (
        table[-GAP - 30 : -GAP, GAP : GAP + 50] == 90
    ).all()


def test_table_of_few_colours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    for colours in (None, 16):
        picture_table(tmp_path / f'{colours}.png', [[noise]], ['x'], colours=colours)
    full, few = (Image.open(tmp_path / f'{colours}.png') for colours in (None, 16))
    assert full.size == few.size and len(few.convert('RGB').getcolors()) <= 16
    assert (np.array(full)[HEAD:-GAP, GAP:-GAP] == noise).all()
    difference = np.array(full).astype(int) - np.array(few.convert('RGB'))
    assert np.abs(difference).mean() < 60, 'still the picture'
    assert (tmp_path / '16.png').stat().st_size < (tmp_path / 'None.png').stat().st_size / 2
