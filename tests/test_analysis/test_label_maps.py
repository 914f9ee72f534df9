"""Label maps drawn over pictures."""

import numpy as np
import pytest

from mmvim.analysis.label_maps import draw_labels

NAMES = ('sky', 'road')


def test_colours_are_the_classes_and_ignored_pixels_stay():
    image = np.full((40, 60, 3), 100, np.uint8)
    labels = np.full((40, 60), 255)
    labels[:5, :10], labels[30:, 50:] = 0, 1  # too small for names
    drawn = draw_labels(image, labels, NAMES, [(0, 0, 200), (200, 0, 0)])
    assert drawn[2, 2].tolist() == [50, 50, 150] and drawn[35, 55].tolist() == [150, 50, 50]
    assert (drawn[10:25] == 100).all() and (image == 100).all()


def test_a_large_region_is_named_inside_of_itself():
    image, labels = np.zeros((120, 160, 3), np.uint8), np.full((120, 160), 255)
    labels[20:100, 30:130] = 1
    drawn = draw_labels(image, labels, NAMES, [(0, 0, 0), (0, 0, 0)])
    rows, _ = np.nonzero(drawn.any(2))
    assert len(rows) > 30 and 45 < rows.mean() < 75


@pytest.mark.parametrize(
    ('labels', 'palette', 'words'),
    [((3, 4), None, r'\(3, 4\) does not fit a picture of \(4, 4\)'), ((4, 4), [(1, 2, 3)], 'has 1 colours for 2')],
)
def test_mistakes(labels, palette, words):
    with pytest.raises(ValueError, match=words):
        draw_labels(np.zeros((4, 4, 3), np.uint8), np.zeros(labels, int), NAMES, palette)
