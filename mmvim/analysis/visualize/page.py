"""Scan orders as one HTML page that needs nothing else: a slider for the map's size, one for the step."""

import base64
import html
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmvim.ops.scan_paths import scan_paths

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 1.2rem auto;
         max-width: 1180px; padding: 0 1rem; }
  h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
  form { display: flex; flex-wrap: wrap; gap: .5rem 1.6rem; align-items: center; position: sticky; top: 0; z-index: 1;
         background: #fff; border-bottom: 1px solid #ccc; padding: .6rem 0; margin-bottom: .8rem; }
  label { display: flex; gap: .5rem; align-items: center; }
  input[type=range] { width: 11rem; }
  output { font-variant-numeric: tabular-nums; min-width: 5.5rem; }
  #panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(205px, 1fr)); gap: .9rem; }
  figure { margin: 0; }
  figcaption { font-size: .86rem; white-space: pre-line; line-height: 1.25; }
  canvas { width: 100%; display: block; border: 1px solid #999; }
  .bar { display: inline-block; width: 8rem; height: .7rem; vertical-align: middle;
         background: linear-gradient(90deg, #f2a65a, #c2410c, #581c87, #0b1026); }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p>The scan visits the cells of a map in the order of the line: from the circle, first steps light, last steps dark
(<span class="bar" role="img" aria-label="light to dark"></span>), to the square. Thin broken parts jump further
than to one of the eight cells around. NAME_reverse, by the tick at “backwards”, is the same line from its end.
The address of this page changes with the map and the step: copied, it is a link to what is shown.</p>
<form id="controls">
  <label>map <input id="size" type="range" min="0" max="0" value="0"><output id="size-text"></output></label>
  <label>steps <input id="step" type="range" min="1" max="1000" value="1000"><output id="step-text"></output></label>
  <label><input id="backwards" type="checkbox"> backwards</label>
  <label id="picture-label"><input id="under" type="checkbox" checked> picture</label>
  <button id="play" type="button">play</button>
</form>
<div id="panels"></div>
<noscript>This page draws with JavaScript, which is switched off.</noscript>
<script type="application/json" id="data">@DATA@</script>
<script>
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const get = (id) => document.getElementById(id);
const stops = [[242, 166, 90], [194, 65, 12], [88, 28, 135], [11, 16, 38]];
function colour(t) {
  const x = t * (stops.length - 1), k = Math.min(Math.floor(x), stops.length - 2), f = x - k;
  return 'rgb(' + stops[k].map((a, i) => Math.round(a + f * (stops[k + 1][i] - a))).join(',') + ')';
}
const picture = data.picture ? Object.assign(new Image(), { src: data.picture }) : null;
const figures = data.orders.map((name) => {
  const figure = document.createElement('figure'), canvas = document.createElement('canvas');
  const caption = document.createElement('figcaption');
  canvas.setAttribute('role', 'img');
  figure.append(canvas, caption);
  get('panels').append(figure);
  return { name, canvas, caption };
});
function draw() {
  const size = data.sizes[Number(get('size').value)], [H, W] = size.shape;
  const share = Number(get('step').value) / 1000, backwards = get('backwards').checked;
  get('size-text').value = H + ' x ' + W;
  get('step-text').value = Math.round(100 * share) + ' %';
  for (const [number, { name, canvas, caption }] of figures.entries()) {
    const map = size.paths[number], all = backwards ? [...map].reverse() : map;
    const shown = Math.max(1, Math.round(all.length * share));
    const title = name + (backwards ? '_reverse' : '');
    caption.textContent = title + '\\nstep ' + shown + ' of ' + all.length;
    canvas.setAttribute('aria-label', 'Scan order ' + title + ' over ' + H + ' x ' + W + ' cells');
    const cell = Math.max(8, Math.floor(560 / W));
    canvas.width = W * cell;
    canvas.height = H * cell;
    const c = canvas.getContext('2d');
    c.fillStyle = '#fff';
    c.fillRect(0, 0, canvas.width, canvas.height);
    if (picture && picture.complete && get('under').checked) {
      c.filter = 'grayscale(1)';
      c.globalAlpha = 0.4;
      c.drawImage(picture, 0, 0, canvas.width, canvas.height);
      c.filter = 'none';
      c.globalAlpha = 1;
    }
    c.strokeStyle = '#a8a8a8';
    c.lineWidth = 2;
    for (let i = 1; i < H; i++) { line(c, 0, i * cell, canvas.width, i * cell); }
    for (let j = 1; j < W; j++) { line(c, j * cell, 0, j * cell, canvas.height); }
    const cells = all.slice(0, shown).filter((p) => p >= 0), total = all.filter((p) => p >= 0).length;
    const at = (p) => [(p % W + 0.5) * cell, (Math.floor(p / W) + 0.5) * cell];
    c.lineCap = 'round';
    for (let t = 1; t < cells.length; t++) {
      const a = cells[t - 1], b = cells[t], [x, y] = at(a), [u, v] = at(b);
      const near = Math.max(Math.abs(a % W - b % W), Math.abs(Math.floor(a / W) - Math.floor(b / W))) === 1;
      c.strokeStyle = colour(t / Math.max(1, total - 1));
      c.lineWidth = near ? Math.min(10, Math.max(3, cell / 7)) : Math.min(5, Math.max(2, cell / 20));
      c.setLineDash(near ? [] : [Math.min(14, cell / 5), Math.min(11, cell / 6)]);
      line(c, x, y, u, v);
    }
    c.setLineDash([]);
    if (cells.length) {
      const radius = Math.min(18, Math.max(9, cell / 4.5)), [x, y] = at(cells[0]), [u, v] = at(cells[cells.length - 1]);
      c.lineWidth = Math.min(6, Math.max(2, cell / 12));
      c.fillStyle = '#fff';
      c.strokeStyle = colour(0.15);
      c.beginPath();
      c.arc(x, y, radius, 0, 2 * Math.PI);
      c.fill();
      c.stroke();
      c.fillStyle = colour(1);
      c.strokeStyle = '#fff';
      c.fillRect(u - radius, v - radius, 2 * radius, 2 * radius);
      c.strokeRect(u - radius, v - radius, 2 * radius, 2 * radius);
    }
  }
}
function line(c, x, y, u, v) {
  c.beginPath();
  c.moveTo(x, y);
  c.lineTo(u, v);
  c.stroke();
}
// '#size=8x12&step=40&backwards' is a link to what is shown; what a page has not is passed over.
function follow() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = data.sizes.findIndex((size) => size.shape.join('x') === given.get('size'));
  const share = parseFloat(given.get('step'));
  if (number >= 0) { get('size').value = number; }
  if (share >= 0) { get('step').value = Math.round(10 * share); }
  if (given.has('backwards')) { get('backwards').checked = given.get('backwards') !== '0'; }
  draw();
}
function remember() {
  const share = Number(get('step').value) / 10;
  const parts = ['size=' + data.sizes[Number(get('size').value)].shape.join('x')];
  if (share < 100) { parts.push('step=' + share); }
  if (get('backwards').checked) { parts.push('backwards=1'); }
  history.replaceState(null, '', '#' + parts.join('&'));
}
let timer = null;
function stop() {
  clearInterval(timer);
  timer = null;
  get('play').textContent = 'play';
}
get('play').addEventListener('click', () => {
  if (timer !== null) { stop(); return; }
  const step = get('step');
  if (Number(step.value) >= 1000) { step.value = 1; }
  get('play').textContent = 'stop';
  timer = setInterval(() => {
    step.value = Number(step.value) + 8;
    draw();
    if (Number(step.value) >= 1000) { stop(); }
  }, 40);
});
get('size').max = data.sizes.length - 1;
get('size').value = data.start;
get('picture-label').hidden = picture === null;
for (const id of ['size', 'step', 'backwards', 'under']) {
  get(id).addEventListener('input', draw);
  get(id).addEventListener('change', remember);
}
if (picture) { picture.addEventListener('load', draw); }
window.addEventListener('hashchange', follow);
follow();
</script>
</body>
</html>
"""


def page_sizes(aspect: float, largest: int) -> list[tuple[int, int]]:
    """Return the sizes of map that a page offers: from 2 rows on, the columns by the picture's shape.

    Args:
        aspect: Width over height.
        largest: Cells of the longer side of the largest map.

    Examples:
        >>> from mmvim.analysis.visualize.page import page_sizes
        >>> page_sizes(1.5, largest=8)
        [(2, 3), (3, 4), (4, 6), (5, 8)]
    """
    sizes = []
    for rows in range(2, largest + 1):
        columns = max(1, round(rows * aspect))
        if columns <= largest:
            sizes.append((rows, columns))
    return sizes or [(2, min(largest, max(2, round(2 * aspect))))]


def _as_data(picture: np.ndarray, largest: int = 640) -> str:
    """Return a picture as the address of itself, no side above ``largest`` pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=82)
    return f'data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def write_page(
    path: str | os.PathLike,
    orders: Sequence[str],
    picture: np.ndarray | None = None,
    largest: int = 18,
    title: str = 'Scan orders over a map',
) -> None:
    """Write a page that draws orders side by side over maps of many sizes.

    The page holds the maps and the picture, loads nothing, and works from a disk without a network.

    Args:
        path: The file; its folder must exist.
        orders: Names of scan orders (see :func:`mmvim.ops.scan_paths.scan_paths`), without ``_reverse``: the page has a
            switch for that.
        picture: (H, W, 3) uint8, RGB, to lie below; the maps have its shape. Defaults to None, square maps.
        largest: Cells of the longer side of the largest map. Defaults to 18.
        title: What the page is called. Defaults to 'Scan orders over a map'.

    Raises:
        ValueError: If there is no order, a name is unknown or ends in ``_reverse``, or ``largest`` is below 2.

    Examples:
        >>> import os, tempfile
        >>> from mmvim.analysis.visualize.page import write_page
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page(os.path.join(folder, 'orders.html'), ('row', 'hilbert'), largest=4)
        ...     os.listdir(folder)
        ['orders.html']
    """
    if not orders:
        raise ValueError('orders is empty; name at least one scan order, such as row')
    backwards = [name for name in orders if name.endswith('_reverse')]
    if backwards:
        raise ValueError(f'orders has {backwards[0]!r}; leave _reverse out, the page has a switch for it')
    if largest < 2:
        raise ValueError(f'largest={largest} must be at least 2 cells')
    aspect = 1.0 if picture is None else picture.shape[1] / picture.shape[0]
    shapes = page_sizes(aspect, largest)
    sizes = [
        {'shape': shape, 'paths': [path.order().tolist() for path in scan_paths(orders, *shape)]} for shape in shapes
    ]
    data = {
        'orders': list(orders),
        'sizes': sizes,
        'start': min(len(sizes) - 1, 6),
        'picture': None if picture is None else _as_data(picture),
    }
    # '</script>' must not end the element early.
    text = json.dumps(data, separators=(',', ':')).replace('</', '<\\/')
    page = _PAGE.replace('@TITLE@', html.escape(title)).replace('@DATA@', text)
    Path(path).write_text(page, 'utf-8')
