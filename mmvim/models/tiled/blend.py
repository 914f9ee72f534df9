"""Where tiles lie on a picture, and how what a model says of them becomes one map, block by block.

Each tile counts less towards its edges, where a model sees least around a pixel. The weights of the tiles at a pixel
sum to 1, and are a product of one for the row and one for the column, so that nothing need be counted or divided.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """The tiles along one side of a picture.

    Attributes:
        tile: Their length, at most the side's.
        starts: Where each begins, ascending.
        shares: (tile,) float32 for each, its weight at each of its pixels; they sum to 1 at each pixel of the side.

    Examples:
        >>> from mmvim.models.tiled.blend import lay_tiles
        >>> axis = lay_tiles(10, tile=6, overlap=2)
        >>> axis.starts, [share.tolist() for share in axis.shares]
        ([0, 4], [[1.0, 1.0, 1.0, 1.0, 0.75, 0.25], [0.25, 0.75, 1.0, 1.0, 1.0, 1.0]])
    """

    tile: int
    starts: list[int]
    shares: list[Tensor]


class Block(NamedTuple):
    """A finished part of the map.

    Attributes:
        row: Of its upper left corner in the picture.
        column: Likewise.
        logits: (C, h, w) float32; what it holds is overwritten when the next block is asked for.

    Examples:
        >>> import torch
        >>> from mmvim.models.tiled.blend import Block
        >>> Block(0, 32, torch.zeros(2, 8, 8)).column
        32
    """

    row: int
    column: int
    logits: Tensor


def lay_tiles(side: int, tile: int, overlap: int) -> Axis:
    """Spread tiles evenly over one side of a picture, as few as overlap by at least so many pixels.

    Args:
        side: Length of the side, in pixels.
        tile: Length of a tile; a shorter side has one of its own length.
        overlap: Least number of pixels that neighbours share, less than ``tile``.

    Examples:
        >>> from mmvim.models.tiled.blend import lay_tiles
        >>> lay_tiles(1000, tile=512, overlap=64).starts
        [0, 244, 488]
    """
    tile = min(tile, side)
    if tile == side:
        return Axis(side, [0], [torch.ones(side)])
    stride = tile - overlap
    number = -((overlap - side) // stride)  # ceil((side - overlap) / stride)
    starts = [round(i * (side - tile) / (number - 1)) for i in range(number)]
    place = torch.arange(tile, dtype=torch.float64) + 0.5
    # 1 in the middle, and a ramp where neighbours are: over all that they share, which may be more than ``overlap``.
    shared = max(starts[i] + tile - starts[i + 1] for i in range(number - 1))
    ramp = torch.minimum(place, tile - place) / shared if shared else torch.ones(tile, dtype=torch.float64)
    raw = ramp.clamp(max=1)
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + tile] += raw
    return Axis(tile, starts, [(raw / total[start : start + tile]).float() for start in starts])


def blended_blocks(
    logits_of: Callable[[int, int], Tensor], rows: Axis, columns: Axis, channels: int, memory: int, device: torch.device
) -> Iterator[Block]:
    """Blend the tiles of a picture, and yield the map in blocks that cover it once.

    Only the sums of one row of tiles over one panel of columns are kept. A panel is as wide as ``memory`` allows; tiles
    that reach into two panels are computed for both, which changes no value.

    Args:
        logits_of: Returns what the model says of the tile that begins at a row and a column, (C, tile, tile).
        rows: The tiles down the picture.
        columns: The tiles across.
        channels: C.
        memory: Bytes that the sums may take; one stride of columns is the least.
        device: Where the sums are.

    Yields:
        The blocks, panel by panel, each from top to bottom.

    Examples:
        >>> import torch
        >>> from mmvim.models.tiled.blend import blended_blocks, lay_tiles
        >>> axis = lay_tiles(10, tile=6, overlap=2)
        >>> picture = torch.arange(100.0).reshape(1, 10, 10)
        >>> tiles = lambda y, x: picture[:, y : y + 6, x : x + 6]
        >>> blocks = blended_blocks(tiles, axis, axis, 1, memory=0, device=torch.device('cpu'))
        >>> [(block.row, block.column, tuple(block.logits.shape[1:])) for block in blocks]
        [(0, 0, (4, 4)), (4, 0, (6, 4)), (0, 4, (4, 6)), (4, 4, (6, 6))]
    """
    bottom, right = rows.starts[-1] + rows.tile, columns.starts[-1] + columns.tile
    panels = list(_panels(columns, right, channels * rows.tile * 4, memory))
    # One buffer for all panels: who asks for the next block still holds the last one of the panel before.
    buffer = torch.empty(channels * rows.tile * max(end - left for left, end in panels), device=device)
    for left, end in panels:
        crossing = [i for i, x in enumerate(columns.starts) if x < end and x + columns.tile > left]
        sums = buffer[: channels * rows.tile * (end - left)].view(channels, rows.tile, end - left).zero_()
        for number, y in enumerate(rows.starts):
            down = rows.shares[number].to(device)[:, None]  # (tile, 1)
            for i in crossing:
                x = columns.starts[i]
                first, last = max(left, x), min(end, x + columns.tile)
                weights = down * columns.shares[i][first - x : last - x].to(device)  # (tile, last - first)
                part = logits_of(y, x)[:, :, first - x : last - x].to(device, torch.float32)
                sums[:, :, first - left : last - left].addcmul_(part, weights)
            done = (rows.starts[number + 1] if number + 1 < len(rows.starts) else bottom) - y
            yield Block(y, left, sums[:, :done])
            for channel in sums if done < rows.tile else ():  # one by one: a copy of all would take as much again
                channel[: rows.tile - done] = channel[done:].clone()
                channel[rows.tile - done :] = 0


def _panels(columns: Axis, right: int, column_bytes: int, memory: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last column of each panel; all but the last end where a tile begins."""
    left = 0
    while left < right:
        ends = [x for x in (*columns.starts[1:], right) if x > left]
        end = max((x for x in ends if (x - left) * column_bytes <= memory), default=ends[0])
        yield left, end
        left = end
