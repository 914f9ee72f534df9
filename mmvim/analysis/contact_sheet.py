"""One figure of many examples: image, truth and prediction side by side, with a legend."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

IGNORED = (64, 64, 64)
"""Colour of pixels without a class."""
DPI = 100
TITLES = ('image', 'truth', 'prediction')


class SheetRow(NamedTuple):
    """One example.

    Args:
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) integers, labels; a label that is not a class is drawn as ignored.
        prediction: (H, W) integers, labels.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.contact_sheet import SheetRow
        >>> labels = np.zeros((24, 32), np.uint8)
        >>> SheetRow(np.zeros((24, 32, 3), np.uint8), truth=labels, prediction=labels).truth.shape
        (24, 32)
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


def colourise(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the colours of a label map; labels outside the palette become :data:`IGNORED`.

    Args:
        labels: (H, W) integers.
        palette: RGB, 0 to 255, of each class.

    Returns:
        (H, W, 3) uint8, RGB.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.contact_sheet import colourise
        >>> colourise(np.array([[0, 255]]), [(255, 0, 0)]).tolist()
        [[[255, 0, 0], [64, 64, 64]]]
    """
    table = np.array([*palette, IGNORED], np.uint8)
    labels = labels.astype(np.int64)
    return table[np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))]


def contact_sheet(
    path: str | os.PathLike,
    rows: Sequence[SheetRow],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    title: str = '',
    groups: int = 1,
    cell_width: int = 240,
) -> None:
    """Draw examples as a table with a legend of the classes that occur, as PNG.

    Args:
        path: The file; its folder must exist.
        rows: The examples, all shown at the shape of the first.
        classes: Names of the classes.
        palette: RGB, 0 to 255, of each class.
        title: A line above. Defaults to ''.
        groups: Examples beside each other. Defaults to 1.
        cell_width: Width of one picture in pixels. Defaults to 240.

    Raises:
        ValueError: If there is nothing to draw, the palette has another length than ``classes``, or the parts of an
            example differ in shape.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from mmvim.analysis.contact_sheet import SheetRow, contact_sheet
        >>> labels = np.zeros((24, 32), np.uint8)
        >>> row = SheetRow(np.zeros((24, 32, 3), np.uint8), labels, labels)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     contact_sheet(os.path.join(folder, 'sheet.png'), [row], ['sky'], [(120, 180, 250)])
        ...     os.listdir(folder)
        ['sheet.png']
    """
    sheet = draw_contact_sheet(rows, classes, palette, title, groups, cell_width)
    # 256 colours keep the file small enough for a README
    sheet = sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    sheet.save(Path(path), format='PNG', optimize=True)


def draw_contact_sheet(
    rows: Sequence[SheetRow],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    title: str = '',
    groups: int = 1,
    cell_width: int = 240,
) -> Image.Image:
    """Draw what :func:`contact_sheet` writes, in all its colours; arguments and errors are the same.

    Returns:
        The sheet, RGB.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.contact_sheet import SheetRow, draw_contact_sheet
        >>> labels = np.zeros((24, 32), np.uint8)
        >>> row = SheetRow(np.zeros((24, 32, 3), np.uint8), labels, labels)
        >>> draw_contact_sheet([row], ['sky'], [(120, 180, 250)]).mode
        'RGB'
    """
    if not rows:
        raise ValueError('a contact sheet needs at least one row')
    if len(classes) != len(palette):
        raise ValueError(f'{len(classes)} classes but {len(palette)} colours')
    for number, row in enumerate(rows):
        if not row.image.shape[:2] == row.truth.shape == row.prediction.shape:
            raise ValueError(
                f'row {number}: image {row.image.shape[:2]}, truth {row.truth.shape} and prediction '
                f'{row.prediction.shape} differ in shape'
            )
    height, width = rows[0].truth.shape
    cell_height = cell_width * height / width
    lines = math.ceil(len(rows) / groups)
    gap, between, head = 6, 18, 24 + (26 if title else 0)
    occurring = [
        index
        for index in range(len(classes))
        if any((row.truth == index).any() or (row.prediction == index).any() for row in rows)
    ]
    widest = max(1, int(groups * 3 * cell_width / 118))
    columns = math.ceil(len(occurring) / math.ceil(len(occurring) / widest)) if occurring else 1
    foot = 16 + 22 * math.ceil(len(occurring) / columns)
    total_width = groups * (3 * cell_width + 2 * gap) + (groups - 1) * between + 2 * gap
    total_height = head + lines * (cell_height + gap) + foot
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor='white')
    canvas = FigureCanvasAgg(figure)

    def place(x: float, y: float, picture: np.ndarray, interpolation: str) -> None:
        axes = figure.add_axes(
            (
                x / total_width,
                1 - (y + cell_height) / total_height,
                cell_width / total_width,
                cell_height / total_height,
            )
        )
        axes.imshow(picture, interpolation=interpolation, aspect='auto')
        axes.set_axis_off()

    for number, row in enumerate(rows):
        group, line = number % groups, number // groups
        x = gap + group * (3 * cell_width + 2 * gap + between)
        y = head + line * (cell_height + gap)
        parts = (row.image, colourise(row.truth, palette), colourise(row.prediction, palette))
        for part, (picture, name) in enumerate(zip(parts, TITLES, strict=True)):
            left = x + part * (cell_width + gap)
            place(left, y, picture, 'lanczos' if part == 0 else 'nearest')
            if line == 0:
                figure.text(
                    (left + cell_width / 2) / total_width,
                    1 - (head - 6) / total_height,
                    name,
                    ha='center',
                    va='bottom',
                    fontsize=10,
                )
    if title:
        figure.text(0.5, 1 - 8 / total_height, title, ha='center', va='top', fontsize=12)
    patches = [
        Patch(
            facecolor='#{:02x}{:02x}{:02x}'.format(*palette[index]),
            edgecolor='0.5',
            linewidth=0.5,
            label=classes[index],
        )
        for index in occurring
    ]
    figure.legend(
        handles=patches,
        loc='lower center',
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        handlelength=1.3,
        columnspacing=1.4,
        borderaxespad=0.4,
    )
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return Image.open(buffer).convert('RGB')
