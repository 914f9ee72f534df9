"""The arithmetic and the drawing that the scenes are made of."""

import hashlib

import numpy as np
import pytest

from scenes.canvas import Canvas
from scenes.dice import Dice
from scenes.exact import TILE, bell, direction, noise_tile, sample, smooth, wave
from scenes.shapes import Ellipse, Polygon, Rod


def test_wave_is_a_sine():
    turns = np.linspace(-2, 2, 1001)
    assert np.abs(wave(turns) - np.sin(2 * np.pi * turns)).max() < 0.002
    x, y = direction(0.1)
    assert x * x + y * y == pytest.approx(1, abs=1e-12)
    assert np.arctan2(y, x) / (2 * np.pi) == pytest.approx(0.1, abs=1e-3)


def test_smooth_is_monotonic_and_reversible():
    values = np.linspace(-1, 2, 50).astype(np.float32)
    up = smooth(values, 0, 1)
    assert (np.diff(up) >= 0).all() and up[0] == 0 and up[-1] == 1
    np.testing.assert_allclose(smooth(values, 1, 0), 1 - up, atol=1e-6)


def test_bell_has_unit_variance():
    noise = bell(Dice([1]).generator, (200, 200))
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.02 and float(noise.std()) == pytest.approx(1, abs=0.02)


def test_noise_tiles_are_periodic_and_fixed():
    tile = noise_tile('rough')
    assert tile.shape == (TILE, TILE) and tile.min() == 0 and tile.max() == 1 and not tile.flags.writeable
    # No seam: the step across the border is no larger than the steps inside.
    assert np.abs(tile[:, 0] - tile[:, -1]).max() <= np.abs(np.diff(tile, axis=1)).max()
    points = np.array([[0.0, 3.5, 511.9]])
    np.testing.assert_array_equal(sample('rough', points, points), sample('rough', points + 2 * TILE, points - TILE))


def test_dice_repeat_and_differ():
    assert [Dice([3, 4]).between(0, 1) for _ in range(2)] == [Dice([3, 4]).between(0, 1)] * 2
    assert Dice([3, 4]).between(0, 1) != Dice([4, 3]).between(0, 1)
    dice = Dice([0])
    assert all(0 <= c <= 1 for _ in range(50) for c in dice.colour((0.99, 0.01, 0.5), 0.3))
    assert {dice.count(1, 3) for _ in range(100)} == {1, 2, 3}
    assert {dice.sign() for _ in range(50)} == {-1, 1}


@pytest.mark.parametrize(
    ('shape', 'area'),
    [
        (Ellipse(20, 20, 12, 8), np.pi * 12 * 8),
        (Polygon([(5, 5), (35, 5), (35, 25), (5, 25)]), 600),
        (Polygon([(5, 5), (35, 5), (20, 35)]), 450),
        (Polygon([(5, 5), (35, 5), (35, 35), (20, 20), (5, 35)]), 900 - 225),  # not convex
        (Rod((10, 20), (30, 20), 4, 4), 20 * 8 + np.pi * 16),
    ],
)
def test_shapes_cover_their_area(shape, area):
    canvas = Canvas(20, 20)  # 40 x 40 samples
    patch = canvas.patch((0, 0, 40, 40))
    mask = shape.inside(patch.x, patch.y)
    assert mask.sum() == pytest.approx(area, rel=0.04)
    left, top, right, bottom = shape.box()
    rows, columns = np.nonzero(mask)
    assert left <= columns.min() + 0.5 and columns.max() + 0.5 <= right
    assert top <= rows.min() + 0.5 and rows.max() + 0.5 <= bottom


def test_owner_of_a_pixel_is_the_majority_then_the_nearest():
    canvas = Canvas(1, 4)
    for name in ('sky', 'tree', 'car'):
        canvas.segment(name)
    canvas.owner[:] = [[0, 0, 0, 2, 0, 2, 0, 1], [0, 1, 2, 0, 1, 2, 2, 2]]
    np.testing.assert_array_equal(canvas.owners(), [[0, 2, 2, 2]])
    canvas.owner[:] = [[0, 1, 1, 1, 0, 1, 0, 0], [2, 1, 0, 2, 2, 0, 1, 0]]
    np.testing.assert_array_equal(canvas.owners(), [[1, 1, 0, 0]])


def test_patch_outside_the_canvas_is_none():
    canvas = Canvas(8, 8)
    assert canvas.patch((20, 0, 30, 5)) is None
    assert canvas.patch((-9, -9, 0, 0)) is None
    assert canvas.patch((-9, -9, 1, 1)).x.shape == (1, 1)


def test_noise_is_the_same_everywhere():
    # Only exactly rounded operations are used, so these digests hold on every machine.
    digests = {
        name: hashlib.sha256(noise_tile(name).astype('<f4').tobytes()).hexdigest()[:12]
        for name in ('cloud', 'rough', 'grain')
    }
    assert digests == {'cloud': '54bcec2b938b', 'rough': '1377ed177b11', 'grain': '8bcaf9c0816f'}
