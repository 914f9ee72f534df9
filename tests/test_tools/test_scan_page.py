"""The page of scan orders in a headless Chromium: its sliders, its links, and what then stands on it."""

import base64
import io
import json
from itertools import pairwise

import browser
import numpy as np
import pytest
from PIL import Image

from mmvim.cli.commands.visualize import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.find() is None, reason='no Chromium is installed'),
]
ORDERS = ('row', 'col', 'hilbert')
GRID = 168


@pytest.fixture
def address(tmp_path):
    """A page of maps of 2 x 3 to 6 x 9 cells over a white picture."""
    Image.new('RGB', (90, 60), 'white').save(tmp_path / 'white.png')
    picture = ['--picture', str(tmp_path / 'white.png')]
    main(['page', '--orders', *ORDERS, *picture, '--largest', '9', '--out', str(tmp_path / 'orders.html')])
    return (tmp_path / 'orders.html').as_uri()


@pytest.fixture
def tab(tmp_path):
    pytest.importorskip('websockets', reason='the browser is spoken to by websockets')
    with browser.tab(tmp_path / 'profile') as one:
        yield one


def text(tab, name):
    return tab.ask(f'document.getElementById("{name}").textContent')


def canvas(tab, number):
    """What is drawn of an order, (H, W, 3)."""
    address = tab.ask(f'document.querySelectorAll("canvas")[{number}].toDataURL()')
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(',')[2]))).convert('RGB')).astype(int)


def cells(pixels):
    """The rows and columns of the map that a drawing has: one more than there are lines between them."""
    grid = np.abs(pixels - GRID).sum(-1) < 12
    return tuple(1 + int((np.diff(lines.astype(int)) == 1).sum()) for lines in (grid[:, 3:8].all(1), grid[3:8].all(0)))


def steps_drawn(pixels, rows, columns, order):
    """Of an order's steps to a neighbour, those that are drawn: coloured halfway between two cells."""
    edge = pixels.shape[0] // rows
    drawn = 0
    for a, b in pairwise(order):
        y, x = ((a // columns + b // columns + 1) * edge // 2, (a % columns + b % columns + 1) * edge // 2)
        drawn += int(np.ptp(pixels[y, x]) > 15)
    return drawn


def press(tab, name, key, code):
    """A key on an element, as a person presses it."""
    tab.ask(f'document.getElementById("{name}").focus()')
    for kind in ('keyDown', 'keyUp'):
        tab.call('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def open_at(tab, address):
    tab.open('about:blank')
    tab.open(address)
    browser.wait_for(lambda: tab.ask('location.protocol === "file:" && document.querySelectorAll("canvas").length'), '')


def test_the_slider_shows_the_map_of_its_size(tab, address):
    open_at(tab, address)
    shown = []
    for key, code in (('Home', 36), ('ArrowRight', 39), ('ArrowRight', 39), ('End', 35)):
        press(tab, 'size', key, code)
        pixels = canvas(tab, 0)
        rows, columns = cells(pixels)
        shown.append((rows, columns))
        assert pixels.shape[0] * columns == pixels.shape[1] * rows, 'square cells'
        assert text(tab, 'size-text') == f'{rows} x {columns}'
        caption = tab.ask('document.querySelector("figcaption").textContent')
        assert caption == f'row\nstep {rows * columns} of {rows * columns}'
        assert f'over {rows} x {columns} cells' in tab.ask(
            'document.querySelector("canvas").getAttribute("aria-label")'
        )
        assert steps_drawn(pixels, rows, columns, range(rows * columns)) >= rows * (columns - 1)
        assert tab.ask('location.hash') == f'#size={rows}x{columns}'  # the address is a link to it
    assert shown == [(2, 3), (3, 4), (4, 6), (6, 9)]


def test_the_step_backwards_and_play(tab, address):
    open_at(tab, f'{address}#size=4x6')
    forwards = canvas(tab, 1)
    order = [6 * (k % 4) + k // 4 for k in range(24)]
    assert steps_drawn(forwards, 4, 6, order) >= 18
    tab.ask('document.getElementById("backwards").click()')
    assert tab.ask('document.querySelectorAll("figcaption")[1].textContent') == 'col_reverse\nstep 24 of 24'
    assert (canvas(tab, 1) != forwards).any() and tab.ask('location.hash') == '#size=4x6&backwards=1'
    press(tab, 'step', 'Home', 36)
    assert tab.ask('document.querySelectorAll("figcaption")[1].textContent') == 'col_reverse\nstep 1 of 24'
    assert steps_drawn(canvas(tab, 1), 4, 6, order[::-1]) == 0
    tab.ask('document.getElementById("play").click()')
    assert text(tab, 'play') == 'stop'
    browser.wait_for(lambda: text(tab, 'step-text') == '100 %' and text(tab, 'play') == 'play', 'the last step')
    assert steps_drawn(canvas(tab, 1), 4, 6, order[::-1]) >= 18


@pytest.mark.parametrize(
    ('link', 'size', 'step', 'title'),
    [
        ('#size=5x8', '5 x 8', '100 %', 'row'),
        ('#size=3x4&step=50&backwards', '3 x 4', '50 %', 'row_reverse'),
        ('#size=40x40&step=x', '6 x 9', '100 %', 'row'),  # what the page has not: where it begins
        ('', '6 x 9', '100 %', 'row'),
    ],
)
def test_a_link_to_a_size(tab, address, link, size, step, title):
    open_at(tab, address + link)
    assert (text(tab, 'size-text'), text(tab, 'step-text')) == (size, step)
    assert tab.ask('document.querySelector("figcaption").textContent').startswith(f'{title}\nstep')
    tab.ask('location.hash = "#size=2x3"')  # a link that is followed while the page is open
    browser.wait_for(lambda: text(tab, 'size-text') == '2 x 3', 'the other size')


def test_a_picture_below(tab, tmp_path):
    pixels = np.full((60, 90, 3), 30, np.uint8)
    pixels[:, 45:] = 220
    Image.fromarray(pixels).save(tmp_path / 'half.png')
    main(['page', '--orders', 'row', '--picture', str(tmp_path / 'half.png'), '--out', str(tmp_path / 'half.html')])
    open_at(tab, f'{(tmp_path / "half.html").as_uri()}#size=4x6&step=0')
    browser.wait_for(lambda: canvas(tab, 0)[-8, 8, 0] < 200, 'the picture')
    left, right = canvas(tab, 0)[-8, 8], canvas(tab, 0)[8, -8]
    assert right[0] - left[0] > 50 and np.ptp(left) < 8
    tab.ask('document.getElementById("under").click()')
    assert (canvas(tab, 0)[-8, 8] == 255).all()
    assert json.loads(tab.ask('JSON.stringify(performance.getEntriesByType("resource").map(x => x.name))')) == []
