"""Legends below pictures: a patch of colour and a name each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 8


class Entry(NamedTuple):
    """One line of a legend.

    Args:
        text: What it says.
        colour: RGB, 0 to 255.

    Examples:
        >>> from mmvim.analysis.legend import Entry
        >>> Entry('sky', (120, 180, 250)).text
        'sky'
    """

    text: str
    colour: tuple[int, int, int]


def add_legend(
    picture: np.ndarray, entries: Sequence[Entry], note: str = '', lines: int | None = None, size: int | None = None
) -> np.ndarray:
    """Return a picture with a legend below it, on white.

    Args:
        picture: (H, W, 3) uint8, RGB.
        entries: What the legend names, the most important first.
        note: A line above them. Defaults to '', none.
        lines: Number of lines of entries that there is room for, used or not, so that all frames of a video have one
            size; what finds no room is counted in the note. Defaults to None, as many as are needed.
        size: Height of the letters in pixels. Defaults to None, a fortieth of the picture's width, 12 to 40.

    Returns:
        (H + legend, max(W, 160), 3) uint8, RGB; the picture is at the top left.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.legend import Entry, add_legend
        >>> add_legend(np.zeros((64, 200, 3), np.uint8), [Entry('sky', (120, 180, 250))]).shape
        (92, 200, 3)
    """
    height, width = picture.shape[:2]
    width = max(width, 160)
    size = size or int(np.clip(width / 40, 12, 40))
    step = size + _GAP
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')), size)
    placed = []
    line, left = 0, _GAP
    for entry in entries:
        needed = min(size + _GAP // 2 + int(font.getlength(entry.text)), width - 2 * _GAP)
        if left > _GAP and left + needed > width - _GAP:
            line, left = line + 1, _GAP
        if lines is not None and line >= lines:
            break
        placed.append((entry, line, left))
        left += needed + 2 * _GAP
    if len(placed) < len(entries):
        note = f'{note}{", " if note else ""}{len(entries) - len(placed)} more classes'
    used = lines if lines is not None else (placed[-1][1] + 1 if placed else 0)
    top = height + (step if note or lines is not None else 0)
    bottom = top + used * step + (_GAP if used or top > height else 0)
    canvas = Image.new('RGB', (width, bottom), 'white')
    canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, 0))
    draw = ImageDraw.Draw(canvas)
    if note:
        draw.text((_GAP, height + _GAP), note, fill=(60, 60, 60), font=font)
    for entry, line, left in placed:
        y = top + line * step + _GAP
        draw.rectangle((left, y, left + size - 1, y + size - 1), fill=tuple(entry.colour), outline=(90, 90, 90))
        draw.text((left + size + _GAP // 2, y - size // 8), entry.text, fill='black', font=font)
    return np.array(canvas)
