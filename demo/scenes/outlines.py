"""Masks as COCO stores them: polygons along the pixel edges, run lengths for crowds."""

import cv2
import numpy as np


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths.

    Args:
        mask: (H, W) bool.

    Returns:
        Lengths of alternating runs of 0 and 1 down the columns, beginning with 0.
    """
    flat = mask.ravel(order='F').astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate(([0], changes, [flat.size]))
    lengths = np.diff(bounds).tolist()
    return [0, *lengths] if flat[0] else lengths


def _outline(mask: np.ndarray) -> list[int]:
    """Outline of one 4-connected region without holes: x, y, x, y, ... of the corners, in pixel edges."""
    inside = np.pad(mask, 1)
    rows, columns = np.nonzero(mask)
    y, x = int(rows[0]), int(columns[0])  # topmost row, its leftmost pixel: the walk starts along its upper edge
    start = (x, y)
    dx, dy = 1, 0  # the region lies to the right of the walk
    corners: list[int] = [x, y]
    while True:
        x, y = x + dx, y + dy
        if (x, y) == start:
            return corners
        # The two pixels ahead of this corner, left and right of the direction; inside is shifted by the padding.
        left = inside[y + (dy - dx + 1) // 2, x + (dx + dy + 1) // 2]
        right = inside[y + (dy + dx + 1) // 2, x + (dx - dy + 1) // 2]
        if not right:
            dx, dy = -dy, dx
        elif left:
            dx, dy = dy, -dx
        else:
            continue
        corners += [x, y]


def polygons(mask: np.ndarray) -> list[list[int]]:
    """Polygons that cover exactly the mask's pixels.

    A region with a hole is cut through the hole into two, because COCO's polygons cannot have one.

    Args:
        mask: (H, W) bool.

    Returns:
        One ``[x0, y0, x1, y1, ...]`` for each piece, corners in pixel edges.
    """
    result: list[list[int]] = []
    pieces = [mask]
    while pieces:
        number, labels = cv2.connectedComponents(pieces.pop().astype(np.uint8), connectivity=4)
        for label in range(1, number):
            region = labels == label
            # Background that cannot be reached from outside, through corners too, is a hole.
            _, outside = cv2.connectedComponents(
                np.pad(~region, 1, constant_values=True).astype(np.uint8), connectivity=8
            )
            holes = (outside != outside[0, 0])[1:-1, 1:-1] & ~region
            if holes.any():
                column = int(np.nonzero(holes)[1].min())
                left, right = region.copy(), region.copy()
                left[:, column + 1 :], right[:, : column + 1] = False, False
                pieces += [left, right]
            else:
                result.append(_outline(region))
    return sorted(result)


def box(mask: np.ndarray) -> list[int]:
    """COCO's bounding box of a mask that is not empty: x, y, width, height."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
