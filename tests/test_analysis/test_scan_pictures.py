"""Pictures and the page of scan orders: right side up, complete, and readable in grey."""

import json
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgba_array
from PIL import Image

from mmvim.analysis.visualize.figure import DARKER_IS_MORE, Panel, draw_panels, in_rows
from mmvim.analysis.visualize.page import page_sizes, write_page
from mmvim.analysis.visualize.scan_paths import PROGRESS, draw_scan_paths, example_orders
from mmvim.ops.scan_paths import available_scan_paths, scan_paths


def read(path):
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def panel_of(picture, background=255):
    """The part of a picture within its only panel's frame."""
    dark = np.abs(picture - 153).sum(-1) < 30  # the frame, '0.6'
    rows, columns = dark.sum(1) > dark.sum(1).max() * 0.8, dark.sum(0) > dark.sum(0).max() * 0.8
    i, j = rows.nonzero()[0], columns.nonzero()[0]
    return picture[i[0] + 2 : i[-1] - 1, j[0] + 2 : j[-1] - 1]


def test_every_registered_order_has_an_example():
    names = example_orders(8, 12)
    assert len(names) == len(set(names)) and scan_paths(names, 8, 12)
    stems = [name for name in available_scan_paths() if not name.endswith('_reverse')]
    for stem in stems:
        pattern = re.sub(r'<\w+>', r'[0-9]+', stem)
        assert any(re.fullmatch(pattern, name) for name in names), stem
    assert set(example_orders(8, 12, reverse=True)) == {*names, *(f'{name}_reverse' for name in names)}


def test_a_path_begins_where_it_begins(tmp_path):
    """On a map that is wider than high, the column order starts light at the left and ends dark at the right."""
    draw_scan_paths(tmp_path / 'col.png', ('col',), 3, 9)
    panel = panel_of(read(tmp_path / 'col.png'))
    height, width = panel.shape[:2]
    assert width > 1.5 * height, 'a map of 3 x 9 cells is wider than high'
    lightness = panel.mean(-1)
    thirds = [np.percentile(lightness[:, part * width // 9 : (part + 1) * width // 9], 1) for part in (1, 4, 7)]
    assert thirds[0] > thirds[1] > thirds[2], 'the line does not darken from left to right'
    draw_scan_paths(tmp_path / 'back.png', ('col_reverse',), 3, 9)
    backwards = panel_of(read(tmp_path / 'back.png')).mean(-1)
    assert np.percentile(backwards[:, width // 9 : 2 * width // 9], 1) < thirds[0] - 30


def test_rows_run_down(tmp_path):
    draw_scan_paths(tmp_path / 'row.png', ('row',), 6, 4)
    lightness = panel_of(read(tmp_path / 'row.png')).mean(-1)
    height = len(lightness)
    assert height > 1.2 * lightness.shape[1], 'a map of 6 x 4 cells is higher than wide'
    tops = [np.percentile(lightness[part * height // 6 : (part + 1) * height // 6], 1) for part in (1, 3, 4)]
    assert tops[0] > tops[1] > tops[2], 'the first row is not at the top'


def test_the_picture_lies_below(tmp_path):
    """Bright above, dark below, at the height of the map's rows."""
    ground = np.zeros((40, 80, 3), np.uint8)
    ground[:20] = 255
    draw_scan_paths(tmp_path / 'a.png', ('row',), 4, 8, ground)
    lightness = np.median(panel_of(read(tmp_path / 'a.png')).mean(-1), axis=1)
    assert lightness[: len(lightness) // 3].mean() > lightness[-len(lightness) // 3 :].mean() + 40


def test_every_order_is_drawn(tmp_path):
    names = example_orders(4, 6)[::3]
    draw_scan_paths(tmp_path / 'all.png', names, 4, 6)
    draw_scan_paths(tmp_path / 'one.png', names[:1], 4, 6)
    whole, one = read(tmp_path / 'all.png'), read(tmp_path / 'one.png')
    coloured = [(np.ptp(picture, axis=-1) > 40).sum() for picture in (whole, one)]
    assert coloured[0] > 0.5 * len(names) * coloured[1]


@pytest.mark.parametrize('colours', [DARKER_IS_MORE, PROGRESS])
def test_colours_are_in_order_in_grey(colours):
    grey = to_rgba_array(colours(np.linspace(0, 1, 64)))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) < 0).all() and grey[0] - grey[-1] > 0.5


def test_values_are_the_right_side_up(tmp_path):
    values = np.zeros((4, 8))
    values[0, 0], values[3, 7] = 1.0, 0.5
    draw_panels(tmp_path / 'a.png', [[Panel('values', values)]], 'title', 'label')
    panel = panel_of(read(tmp_path / 'a.png')).mean(-1)
    height, width = panel.shape
    corners = [panel[: height // 4, : width // 8], panel[: height // 4, -width // 8 :]]
    corners += [panel[-height // 4 :, : width // 8], panel[-height // 4 :, -width // 8 :]]
    top_left, top_right, bottom_left, bottom_right = (np.median(part) for part in corners)
    assert top_left < bottom_right - 30 < top_right - 60 and abs(top_right - bottom_left) < 5


def test_a_scale_is_shared_or_each_panels_own(tmp_path):
    rows = [[Panel('small', np.full((4, 4), 0.1)), Panel('large', np.full((4, 4), 1.0))]]
    found = {}
    for shared in (False, True):
        draw_panels(tmp_path / f'{shared}.png', rows, 'title', 'label', shared=shared)
        picture = read(tmp_path / f'{shared}.png').mean(-1)
        row = picture[picture.shape[0] // 2]
        found[shared] = [row[100], row[400]]
    assert abs(found[False][0] - found[False][1]) < 5 and found[True][0] > found[True][1] + 100


def test_panels_in_rows():
    assert [len(row) for row in in_rows([Panel('')] * 7, 4)] == [4, 3]
    assert in_rows([], 4) == []
    with pytest.raises(ValueError, match='no panel'):
        draw_panels('a.png', [], 'title', 'label')


def test_page_holds_every_map_and_loads_nothing(tmp_path):
    orders = ('row', 'window2', 'hilbert', 'atrous2_3')
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    write_page(tmp_path / 'page.html', orders, picture, largest=9, title='Orders & <more>')
    text = (tmp_path / 'page.html').read_text('utf-8')
    assert not re.search(r'https?://|src="|href=|@import|@TITLE@|@DATA@', text)
    assert '<title>Orders &amp; &lt;more&gt;</title>' in text and 'type="range"' in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data['orders'] == list(orders) and data['picture'].startswith('data:image/jpeg;base64,')
    assert (
        [tuple(size['shape']) for size in data['sizes']]
        == page_sizes(1.5, 9)
        == [(n, round(1.5 * n)) for n in range(2, 7)]
    )
    for size in data['sizes']:
        assert size['paths'] == [path.order().tolist() for path in scan_paths(orders, *size['shape'])]


@pytest.mark.parametrize(
    ('orders', 'largest', 'text'),
    [
        ((), 8, 'orders is empty'),
        (('row_reverse',), 8, 'leave _reverse out'),
        (('row',), 1, 'largest=1'),
        (('rwo',), 8, 'rwo'),
    ],
)
def test_page_refuses(orders, largest, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        write_page(tmp_path / 'page.html', orders, largest=largest)
    assert not (tmp_path / 'page.html').exists()
