"""Scan orders drawn over a picture, side by side: where each begins, how it goes on, and where it jumps."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from mmvim.analysis.visualize.figure import DPI, light_grey, write_png
from mmvim.ops.scan_paths import ScanPath, available_scan_paths, scan_paths

# From light to dark as the steps go on; the lightest is still seen on a light picture.
PROGRESS = LinearSegmentedColormap.from_list('progress', ['#f2a65a', '#c2410c', '#581c87', '#0b1026'])
_ATROUS = 'atrous<p>_<k>'


def example_orders(height: int, width: int, reverse: bool = False) -> tuple[str, ...]:
    """Return a name of every registered order, your own included, for a map of a given size.

    Parameters get an example: windows of 4 cells a side (2 on maps below 8), step 2 with all four of its paths, and 2
    for any other.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        reverse: Name the same orders backwards, too. Defaults to False.

    Examples:
        >>> from mmvim.analysis.visualize.scan_paths import example_orders
        >>> names = example_orders(8, 12)
        >>> names[:5], 'atrous2_4' in names, 'hilbert' in names
        (('row', 'col', 'zigzag_row', 'zigzag_col', 'window4'), True, True)
    """
    side = 4 if min(height, width) >= 8 else 2
    names: list[str] = []
    for name in available_scan_paths():
        if name.endswith('_reverse'):
            continue
        if name == _ATROUS:
            found = [f'atrous2_{k}' for k in range(1, 5)]
        else:
            found = [name.replace('<w>', str(side))]
            while '<' in found[0]:
                found = [found[0].partition('<')[0] + '2' + found[0].partition('>')[2]]
        for example in found:
            names += [example, f'{example}_reverse'] if reverse else [example]
    return tuple(names)


def draw_scan_paths(
    path: str | os.PathLike,
    orders: Sequence[str],
    height: int,
    width: int,
    picture: np.ndarray | None = None,
    title: str = '',
    columns: int = 0,
) -> None:
    """Draw orders over a map, a panel each, as PNG.

    A line runs through the centres of the cells in the order of the steps and darkens on its way, from a circle to a
    square. Thick parts lead to one of the eight cells around, thin broken ones jump.

    Args:
        path: The file; its folder must exist.
        orders: Names of scan orders (see :func:`mmvim.ops.scan_paths.scan_paths`).
        height: Rows of the map.
        width: Columns of the map.
        picture: (H, W, 3) uint8, RGB, to lie below. Defaults to None, a white ground.
        title: A line above. Defaults to '', one that says what is drawn.
        columns: Panels beside each other. Defaults to 0, as many as look well.

    Raises:
        ValueError: If there is no order, a name is unknown, or the map has no cell.

    Examples:
        >>> import os, tempfile
        >>> from mmvim.analysis.visualize.scan_paths import draw_scan_paths
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_scan_paths(os.path.join(folder, 'a.png'), ('row', 'hilbert'), 4, 6)
        ...     os.listdir(folder)
        ['a.png']
    """
    if not orders:
        raise ValueError('orders is empty; name at least one scan order, such as row')
    paths = scan_paths(orders, height, width)
    columns = columns or min(len(paths), 5 if width <= 1.6 * height else 4)
    lines = -(-len(paths) // columns)
    wide = 2.3
    tall = wide * min(max((height / width) if picture is None else picture.shape[0] / picture.shape[1], 0.35), 2.5)
    line, head, foot = tall + 0.42, 0.42, 0.62
    total = (max(columns * (wide + 0.14) + 0.1, 6.0), head + lines * line + foot)
    figure = Figure(figsize=total, dpi=DPI, facecolor='white')
    for number, each in enumerate(paths):
        left, top = 0.1 + number % columns * (wide + 0.14), head + number // columns * line + 0.24
        axes = figure.add_axes((left / total[0], 1 - (top + tall) / total[1], wide / total[0], tall / total[1]))
        _draw_path(axes, each, height, width, picture)
        padding = f', {each.steps} steps' if each.steps != height * width else ''
        axes.set_title(f'{each.name}{padding}', fontsize=9, pad=3)
    title = title or f'scan orders over a map of {height} x {width} cells (rows x columns)'
    figure.text(0.1 / total[0], 1 - 0.1 / total[1], title, ha='left', va='top', fontsize=11)
    bar = figure.add_axes((0.4 / total[0], 0.36 / total[1], 1.8 / total[0], 0.1 / total[1]))
    colours = figure.colorbar(ScalarMappable(Normalize(0, 1), PROGRESS), cax=bar, orientation='horizontal')
    colours.set_ticks([0, 1], labels=['first step', 'last step'])
    colours.ax.tick_params(labelsize=8, length=2)
    text = 'circle: begin, square: end, broken: a jump; NAME_reverse walks the same line backwards'
    figure.text(2.7 / total[0], 0.36 / total[1], text, fontsize=8, va='bottom', color='0.2')
    write_png(figure, path)


def _draw_path(axes, path: ScanPath, height: int, width: int, picture: np.ndarray | None) -> None:
    if picture is not None:
        axes.imshow(light_grey(picture), extent=(0, width, height, 0), aspect='auto', interpolation='antialiased')
    steps = path.order().numpy()
    steps = steps[steps >= 0]  # padding steps lie nowhere
    rows, columns = steps // width, steps % width
    points = np.stack([columns + 0.5, rows + 0.5], axis=1)
    segments = np.stack([points[:-1], points[1:]], axis=1)
    times = (np.arange(len(segments)) + 0.5) / max(len(segments), 1)
    near = np.maximum(np.abs(np.diff(rows)), np.abs(np.diff(columns))) == 1
    for chosen, line_width, style in ((~near, 0.9, (0, (2.5, 1.8))), (near, 2.4, 'solid')):
        drawn = LineCollection(
            list(segments[chosen]), colors=PROGRESS(times[chosen]), linewidths=line_width, linestyles=[style]
        )
        drawn.set_capstyle('round') if style == 'solid' else None
        axes.add_collection(drawn)
    if len(points):
        axes.plot(*points[0], 'o', ms=7, mfc='white', mec=PROGRESS(0.15), mew=2)
        axes.plot(*points[-1], 's', ms=6.5, mfc=PROGRESS(1.0), mec='white', mew=1)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks(range(width + 1), labels=[])
    axes.set_yticks(range(height + 1), labels=[])
    axes.tick_params(length=0)
    axes.grid(color='0.8', linewidth=0.5)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color('0.6')
