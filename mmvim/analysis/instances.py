"""Instances drawn on pictures, and tables of such pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

COLOURS = np.array(
    [
        [230, 60, 60],
        [50, 130, 240],
        [60, 180, 75],
        [245, 170, 40],
        [150, 80, 200],
        [40, 190, 190],
        [240, 90, 190],
        [120, 140, 30],
        [130, 90, 50],
        [90, 90, 90],
    ],
    np.uint8,
)
"""RGB; the number of a label, modulo the number of colours, picks the colour of its instances."""
GAP, HEAD = 6, 22
"""Pixels between the pictures of a table, and height of its head in pixels."""


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    zoom: int = 1,
) -> np.ndarray:
    """Draw masks (tinted, with an outline), boxes and names of instances.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        masks: (n, H, W), of any dtype; what is not 0 belongs to the instance.
        labels: n numbers of classes.
        names: Names of the classes, by number.
        zoom: Factor by which the picture is enlarged first. Defaults to 1.

    Returns:
        (H * zoom, W * zoom, 3) uint8, RGB.

    Raises:
        ValueError: If the numbers of boxes, masks and labels differ, or the masks are not of the picture's size.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.instances import draw_instances
        >>> image, masks = np.zeros((32, 48, 3), np.uint8), np.zeros((1, 32, 48), bool)
        >>> masks[0, 8:24, 10:30] = True
        >>> draw_instances(image, np.array([[10, 8, 30, 24]]), masks, [0], ['tree'], zoom=2).shape
        (64, 96, 3)
    """
    if not len(boxes) == len(masks) == len(labels):
        raise ValueError(f'{len(boxes)} boxes, {len(masks)} masks and {len(labels)} labels')
    if len(masks) and masks.shape[1:] != image.shape[:2]:
        raise ValueError(f'masks of {masks.shape[1:]} do not fit a picture of {image.shape[:2]}')
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    drawn = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for box, mask, label in zip(boxes, masks, labels, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        area = cv2.resize((mask != 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        inside = area.astype(bool)
        drawn[inside] = (0.55 * drawn[inside] + 0.45 * colour).astype(np.uint8)
        outline, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outline, -1, colour.tolist(), 1)
        x1, y1, x2, y2 = np.round(np.asarray(box, np.float64) * zoom).astype(int).tolist()
        cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), colour.tolist(), 1)
        write_text(drawn, names[label], x1 + 1, max(y1 - 2, 9))
    return drawn


def write_text(picture: np.ndarray, text: str, x: int, y: int) -> None:
    """Write small text, white with a black outline, into a picture (H, W, 3) uint8, in place.

    Args:
        picture: The picture.
        text: One line.
        x: Left end in pixels.
        y: Base line in pixels.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.instances import write_text
        >>> picture = np.full((20, 60, 3), 90, np.uint8)
        >>> write_text(picture, 'tree', 2, 14)
        >>> int(picture.min()) < 90 < int(picture.max())
        True
    """
    for colour, thickness in (((0, 0, 0), 2), ((255, 255, 255), 1)):
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.33, colour, thickness, cv2.LINE_AA)


def picture_table(
    path: str | os.PathLike,
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    colours: int | None = None,
) -> None:
    """Write pictures as a table with a head, as PNG.

    Args:
        path: The file; its folder must exist.
        rows: RGB pictures (H, W, 3) uint8, all of one size.
        titles: One for each column.
        colours: Reduce the table to this many colours, 1 to 256, which shrinks the file to a quarter or less. Defaults
            to None, all of them.

    Raises:
        ValueError: If there is nothing to draw, a row is shorter or longer than the head, or sizes differ.
        OSError: If the file cannot be written.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from mmvim.analysis.instances import picture_table
        >>> picture = np.zeros((32, 48, 3), np.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, 'table.png')
        ...     picture_table(path, [[picture, picture]], ['truth', 'prediction'])
        ...     Image.open(path).size  # 2 x (48 + 6) + 6, 22 + 32 + 6
        (114, 60)
    """
    picture = Image.fromarray(draw_table(rows, titles))
    if colours is not None:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)  # plain areas stay plain, and compress well
    picture.save(Path(path), format='PNG', optimize=True)


def draw_table(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> np.ndarray:
    """Draw what :func:`picture_table` writes; arguments and errors are the same.

    Returns:
        (H, W, 3) uint8, RGB.

    Examples:
        >>> import numpy as np
        >>> from mmvim.analysis.instances import draw_table
        >>> picture = np.zeros((32, 48, 3), np.uint8)
        >>> draw_table([[picture, picture]], ['truth', 'prediction']).shape
        (60, 114, 3)
    """
    shapes = {picture.shape for row in rows for picture in row}
    if not rows or any(len(row) != len(titles) for row in rows) or len(shapes) != 1:
        raise ValueError(
            f'a table of {len(titles)} columns needs rows of as many pictures of one size, '
            f'got {len(rows)} rows of {sorted({len(row) for row in rows})} pictures of {sorted(shapes)}'
        )
    ((height, width, _),) = shapes
    table = np.full((HEAD + len(rows) * (height + GAP), len(titles) * (width + GAP) + GAP, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        left = GAP + column * (width + GAP)
        cv2.putText(table, title, (left, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        for line, row in enumerate(rows):
            top = HEAD + line * (height + GAP)
            table[top : top + height, left : left + width] = row[column]
    return table
