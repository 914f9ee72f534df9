"""Made-up colours and legends."""

import numpy as np
import pytest

from mmvim.analysis.legend import Entry, add_legend
from mmvim.analysis.palette import complete_palette, distinct_palette


def test_colours_are_distinct_and_stay():
    colours = distinct_palette(1203)
    assert len(set(colours)) == 1203 and colours[:20] == distinct_palette(20)
    first = np.array(colours[:24], float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=-1)
    assert distances[~np.eye(24, dtype=bool)].min() > 60
    with pytest.raises(ValueError, match='number=-1'):
        distinct_palette(-1)


def test_a_palette_is_filled_up_or_cut():
    assert complete_palette([[1, 2, 3], [4, 5, 6]], 1) == [(1, 2, 3)]
    filled = complete_palette([[1, 2, 3]], 3)
    assert filled[0] == (1, 2, 3) and filled[1:] == distinct_palette(3)[1:]
    assert complete_palette(None, 2) == complete_palette('random', 2) == distinct_palette(2)


def test_a_legend_wraps_and_counts_what_has_no_room():
    picture = np.full((50, 200, 3), 7, np.uint8)
    entries = [Entry(f'a class named {index}', (250, index, 0)) for index in range(9)]
    free = add_legend(picture, entries)
    fixed = add_legend(picture, entries, note='0.1 s', lines=2)
    assert (free[:50, :200] == 7).all() and free.shape[0] > fixed.shape[0] > 50
    assert all((free == entry.colour).all(-1).sum() > 60 for entry in entries)
    shown = [entry for entry in entries if (fixed == entry.colour).all(-1).sum() > 60]
    assert shown == entries[: len(shown)] and 0 < len(shown) < 9
    assert add_legend(picture, entries[:1], lines=2).shape == add_legend(picture, [], lines=2).shape
    assert add_legend(picture, []).shape == (50, 200, 3)
    assert add_legend(picture[:, :9], [Entry('x' * 200, (1, 2, 3))]).shape[1] == 160
