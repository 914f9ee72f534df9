"""The chunks of one path, as views of the tensors that follow it where its order is that of a map's rows or columns.

Reading along an index map takes a small copy a token and a buffer. A path along columns is a transposition, which any
operation reads and writes at the speed of the cache. Other orders are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Walk:
    """Where the chunks of one path lie.

    Args:
        length: L.
        order: Position of each step, int64 (L,), or None for the raster order.
        target: Steps of a chunk; more where that makes whole columns or even chunks, so that there are no more chunks.
        batch: Batch elements of a block; each block has the path's chunks.

    Attributes:
        shapes: Of each chunk, runs of steps and steps of a run; one run unless the chunk has several columns.
    """

    def __init__(self, length: int, order: Tensor | None, target: int, batch: int) -> None:
        self.batch = batch
        self._map = None if order is None else _columns(order)
        self.positions = None if order is None or self._map is not None else order.split(target)
        if self.positions is not None:
            self.shapes = [(1, len(piece)) for piece in self.positions if len(piece)]
            return
        runs, steps = (1, length) if self._map is None else self._map[::-1]
        cuts = steps // target
        # Parts of a run, or several runs.
        self._axis, self._size = (2, -(-steps // cuts)) if cuts > 1 else (1, -(-target // max(1, steps)))
        self._single_runs = cuts > 1 and runs > 1
        self.shapes = [tuple(x.shape[1:]) for x in self.views(torch.empty(1).expand(1, length))[0]] if length else []

    def views(self, x: Tensor) -> list[Sequence[Tensor]]:
        """Each block's chunks (b, runs, steps, ...) of a tensor (batch, L, ...), unless they must be gathered."""
        x = x.unsqueeze(1) if self._map is None else x.unflatten(1, self._map).transpose(1, 2)
        blocks = x.split(self.batch) if x.shape[0] > self.batch else (x,)
        if x.shape[self._axis] <= self._size and not self._single_runs:
            return [(block,) for block in blocks]
        if self._single_runs:
            return [
                [piece for run in block.split(1, dim=1) for piece in run.split(self._size, dim=2)] for block in blocks
            ]
        return [block.split(self._size, dim=self._axis) for block in blocks]


class Followed:
    """A tensor (batch, L, ...) along a path; chunk i of a block is (b, runs, steps, ...).

    Args:
        x: The tensor.
        walk: The path's chunks.
        dtype: That chunks are read in.
    """

    def __init__(self, x: Tensor, walk: Walk, dtype: torch.dtype) -> None:
        self._positions = walk.positions
        self._dtype = None if x.dtype == dtype else dtype
        if walk.positions is None:
            self._views = walk.views(x)
        else:
            self._blocks = x.split(walk.batch)

    def read(self, block: int, i: int) -> Tensor:
        if self._positions is None:
            chunk = self._views[block][i]
        else:
            chunk = self._blocks[block].index_select(1, self._positions[i]).unsqueeze(1)
        return chunk if self._dtype is None else chunk.to(self._dtype)

    def put(self, block: int, i: int, x: Tensor, y: Tensor, add: bool) -> None:
        """Set the chunk to x * y, or add that."""
        if self._positions is None:
            if add:
                self._views[block][i].addcmul_(x, y)
            else:
                torch.mul(x, y, out=self._views[block][i])
            return
        target = self._blocks[block]
        product = (x * y).squeeze(1).to(target.dtype)
        if add:
            target.index_add_(1, self._positions[i], product)
        else:
            target.index_copy_(1, self._positions[i], product)


def _columns(order: Tensor) -> tuple[int, int] | None:
    """H and W of the map whose columns the order walks through from the left, each from the top; None for others."""
    length = order.numel()
    width = int(order[1]) if length > 1 else 0
    if width < 2 or length % width:
        return None
    columns = torch.arange(length, device=order.device).view(-1, width).t().reshape(-1)
    return (length // width, width) if torch.equal(order, columns) else None
