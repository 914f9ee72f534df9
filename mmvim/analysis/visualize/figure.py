"""Panels of maps over a picture, labelled and readable in grey: the darker, the more."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from PIL import Image

DPI = 100
_MARK = '#00695c'
# Lightness falls all the way, so that the order of the values survives a grey print.
DARKER_IS_MORE: Colormap = LinearSegmentedColormap.from_list(
    'darker_is_more', ['#fff7ec', '#fdd49e', '#fc8d59', '#d7301f', '#7f0000', '#2b0000']
)


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: What it shows.
        values: (h, w), drawn over all of the picture; NaN where there is none. None for the picture alone.
        picture: (H, W, 3) uint8, RGB; None for a white ground.
        mark: Row and column of a pixel of the picture to mark, or None.
        colours: (h, w, 3) in 0..1, drawn instead of ``values``, or None.
        note: A line below. Defaults to ''.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.visualize.figure import Panel
        >>> Panel('delta', np.ones((4, 6))).mark is None
        True
    """

    title: str
    values: np.ndarray | None = None
    picture: np.ndarray | None = None
    mark: tuple[float, float] | None = None
    colours: np.ndarray | None = None
    note: str = ''


def write_png(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG of 256 colours, a third as large as one of all.

    Args:
        figure: What to write.
        path: The file; its folder must exist.

    Examples:
        >>> import os, tempfile
        >>> from matplotlib.figure import Figure
        >>> from mmvim.analysis.visualize.figure import write_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_png(Figure(figsize=(1, 1)), os.path.join(folder, 'a.png'))
        ...     os.listdir(folder)
        ['a.png']
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    picture = Image.open(buffer).convert('RGB')
    reduced = picture.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    reduced.save(Path(path), format='PNG', optimize=True)


def light_grey(picture: np.ndarray) -> np.ndarray:
    """Return a picture in light grey, on which dark colours stand out.

    Args:
        picture: (H, W, 3) uint8, RGB.

    Returns:
        (H, W, 3) in 0..1.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.visualize.figure import light_grey
        >>> light_grey(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).round(2).tolist()
        [[[0.68, 0.68, 0.68], [1.0, 1.0, 1.0]]]
    """
    grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    return np.repeat((0.68 + 0.32 * grey)[..., None], 3, axis=2)


def _largest(panels: Sequence[Panel]) -> float:
    found = [np.nanmax(p.values) for p in panels if p.values is not None and np.isfinite(p.values).any()]
    return max(found, default=0.0)


def draw_panels(
    path: str | os.PathLike,
    rows: Sequence[Sequence[Panel]],
    title: str,
    label: str,
    log_floor: float | None = None,
    shared: bool = False,
    width: float = 2.6,
    footer: str = '',
) -> None:
    """Draw panels in rows with one colour bar, as PNG.

    Args:
        path: The file; its folder must exist.
        rows: Panels; a row may have fewer than another.
        title: A line above.
        label: What the colours mean.
        log_floor: Draw on a logarithmic scale down to this share of the largest value. Defaults to None, linear.
        shared: One scale for all panels, in their own unit; else each is drawn relative to its largest value, from 0 to
            1. Defaults to False.
        width: Of a panel in inches, of 100 pixels each. Defaults to 2.6.
        footer: A line below. Defaults to ''.

    Raises:
        ValueError: If there is no panel.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from mmvim.analysis.visualize.figure import Panel, draw_panels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_panels(os.path.join(folder, 'a.png'), [[Panel('one', np.eye(4))]], 'A title', 'what it is')
        ...     os.listdir(folder)
        ['a.png']
    """
    panels = [panel for row in rows for panel in row]
    if not panels:
        raise ValueError('there is no panel to draw')
    columns = max(map(len, rows))
    shape = next(
        (p.picture if p.picture is not None else p.values if p.values is not None else p.colours).shape for p in panels
    )
    height = width * min(max(shape[0] / shape[1], 0.3), 3.0)
    notes = any(panel.note for panel in panels)
    line = height + 0.34 + 0.22 * notes
    has_values = any(panel.values is not None for panel in panels)
    head, foot, bar = 0.42, 0.3 if footer else 0.08, 0.95 if has_values else 0.1
    total = (columns * (width + 0.12) + 0.1 + bar, head + len(rows) * line + foot)
    total = (max(total[0], 0.085 * max(len(title), len(footer)) + 0.2), total[1])
    figure = Figure(figsize=total, dpi=DPI, facecolor='white')
    unit = _largest(panels) if shared else 1.0
    norm = _norm(unit or 1.0, log_floor)
    for number, row in enumerate(rows):
        for place, panel in enumerate(row):
            left, top = 0.1 + place * (width + 0.12), head + number * line + 0.3
            axes = figure.add_axes(
                (left / total[0], 1 - (top + height) / total[1], width / total[0], height / total[1])
            )
            _draw(axes, panel, norm, shared)
            axes.set_title(panel.title, fontsize=9, pad=3)
            if panel.note:
                axes.text(0.5, -0.03, panel.note, fontsize=8, ha='center', va='top', transform=axes.transAxes)
    figure.text(0.1 / total[0], 1 - 0.1 / total[1], title, ha='left', va='top', fontsize=11)
    if footer:
        figure.text(0.1 / total[0], 0.08 / total[1], footer, ha='left', va='bottom', fontsize=8, color='0.3')
    if has_values:
        tall = min(len(rows) * line - 0.3, 3.2)
        box = (0.2 + columns * (width + 0.12)) / total[0], 1 - (head + 0.3 + tall) / total[1], 0.14 / total[0]
        bar_axes = figure.add_axes((*box, tall / total[1]))
        colours = figure.colorbar(ScalarMappable(norm, DARKER_IS_MORE), cax=bar_axes)
        colours.set_label(label, fontsize=8)
        colours.ax.tick_params(labelsize=8)
    write_png(figure, path)


def _norm(unit: float, log_floor: float | None) -> Normalize:
    if log_floor is not None:
        return LogNorm(log_floor * unit, unit, clip=True)
    return Normalize(0, unit, clip=True)


def _draw(axes, panel: Panel, norm: Normalize, shared: bool) -> None:
    """Draw one panel; row 0 is at the top, and a pixel of a map covers its share of the picture."""
    first = next(x for x in (panel.picture, panel.values, panel.colours) if x is not None)
    extent = (0, first.shape[1], first.shape[0], 0)  # left, right, bottom, top
    if panel.picture is not None:
        ground = light_grey(panel.picture) if panel.values is not None else panel.picture
        axes.imshow(ground, extent=extent, aspect='auto', interpolation='antialiased')
    if panel.values is not None:
        values = np.array(panel.values, np.float64)
        if not shared:
            values = values / (_largest([panel]) or 1.0)
        missing = ~np.isfinite(values)
        scaled = np.asarray(norm(np.where(missing, norm.vmin, np.maximum(values, norm.vmin))), np.float64)
        colours = DARKER_IS_MORE(scaled)
        if panel.picture is not None:
            colours[..., 3] = 0.94 * np.clip(scaled * 2.5, 0, 1)  # little leaves the picture to be seen
        colours[missing, 3] = 0
        axes.imshow(colours, extent=extent, aspect='auto', interpolation='nearest')
        if missing.any() and not missing.all():
            _hatch(axes, missing, extent)
    elif panel.colours is not None:
        axes.imshow(np.clip(panel.colours, 0, 1), extent=extent, aspect='auto', interpolation='nearest')
    if panel.mark is not None:
        row, column = panel.mark
        axes.plot(column + 0.5, row + 0.5, 'o', ms=9, mfc='none', mec='white', mew=3.2)
        axes.plot(column + 0.5, row + 0.5, 'o', ms=9, mfc='none', mec=_MARK, mew=1.6)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color('0.6')


def _hatch(axes, missing: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Hatch the cells without a value."""
    rows, columns = missing.shape
    x = np.linspace(extent[0], extent[1], columns + 1)
    y = np.linspace(extent[3], extent[2], rows + 1)
    for i, j in zip(*missing.nonzero(), strict=True):
        axes.fill(
            [x[j], x[j + 1], x[j + 1], x[j]],
            [y[i], y[i], y[i + 1], y[i + 1]],
            facecolor='none',
            edgecolor='0.75',
            hatch='///',
            linewidth=0,
        )


def in_rows(panels: Sequence[Panel], columns: int) -> list[list[Panel]]:
    """Break a sequence of panels into rows, as even as they can be.

    Examples:
        >>> from mmvim.analysis.visualize.figure import Panel, in_rows
        >>> [len(row) for row in in_rows([Panel('')] * 9, columns=4)]
        [3, 3, 3]
    """
    count = math.ceil(len(panels) / columns)
    size = math.ceil(len(panels) / max(count, 1))
    return [list(panels[start : start + size]) for start in range(0, len(panels), max(size, 1))]
