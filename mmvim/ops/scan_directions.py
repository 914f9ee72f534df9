"""The direction of each step of a scan path, for scans that know from which side they reach a token.

PlainMamba's do, https://arxiv.org/abs/2403.17695, Sec. 3.2: it adds a learned vector for the direction to B.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.scan_paths import ScanPath, keep, plain_size, scan_paths

__all__ = ['DIRECTIONS', 'step_directions']

DIRECTIONS = ('start', 'right', 'left', 'up', 'down')
"""What the numbers of :func:`step_directions` mean."""


def step_directions(names: Sequence[str], H: int, W: int, device: torch.device | str = 'cpu') -> Tensor:
    """Return by which step each path over an (H, W) map reaches its tokens.

    They are tensor arithmetic on the paths' orders, and are kept with the maps of :func:`mmvim.ops.scan_paths`.

    Args:
        names: Names of scan orders that visit every position once.
        H: Rows of the map.
        W: Columns of the map.
        device: Where the result shall live. Defaults to 'cpu'.

    Returns:
        int64 (paths, H * W), in the order of the steps: 1 right, 2 left, 3 up, 4 down; 0 for the first step, and for
        one that does not lead to a neighbour.

    Raises:
        ValueError: If a name is unknown, or one of a path with padding steps.

    Examples:
        >>> from mmvim.ops.scan_directions import step_directions
        >>> step_directions(('zigzag_row', 'zigzag_row_reverse', 'row'), 2, 3).tolist()
        [[0, 1, 1, 4, 2, 2], [0, 1, 1, 3, 2, 2], [0, 1, 1, 0, 1, 1]]
    """
    H, W = plain_size(H), plain_size(W)
    paths = scan_paths(names, H, W, device)
    partial = [path.name for path in paths if path.partial]
    if partial:
        raise ValueError(f'scan path {partial[0]!r} has steps outside of the map; directions need one that has none')
    symbolic = isinstance(H, torch.SymInt) or isinstance(W, torch.SymInt)
    if symbolic or torch.compiler.is_compiling():
        return _directions(paths, W)  # must not stay behind in the cache
    key = ('directions', *(path.name for path in paths), H, W, torch.device(device))
    return keep(key, lambda: (_directions(paths, W), False))[0]


def _directions(paths: Sequence[ScanPath], W: int) -> Tensor:
    """Return the directions of several paths over maps of W columns, (paths, H * W)."""
    order = torch.stack([path.order() for path in paths])  # (paths, H * W)
    row, column = order // W, order % W
    down, right = row.diff(), column.diff()  # (paths, H * W - 1)
    found = (right == 1) * 1 + (right == -1) * 2 + (down == -1) * 3 + (down == 1) * 4
    neighbours = right.abs() + down.abs() == 1
    return F.pad(found * neighbours, (1, 0))  # the first step starts
