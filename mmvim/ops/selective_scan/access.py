"""Read a chunk of a tensor along the paths, and write one back, without a copy of the whole tensor.

Whole tensors are seen as (L, 1|K, b, G, C) in whatever strides the projections left them; a chunk is a dense buffer
(steps, segments, 1|K, b, G, C), channels (or states) fastest, whichever order it was read in. A slab that walks
backward has its buffers in ascending positions, too: it takes their steps from the last to the first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmvim.ops.selective_scan.plan import Chunk


class PathGroup(NamedTuple):
    """Neighbouring paths of a slab that visit the same positions.

    Attributes:
        paths: Which paths of the slab.
        order: Position of each place in the buffers, int64 (L,), or None where they are in raster order.
        chunks: `order` of each chunk, in the order of the chunk's memory.
    """

    paths: slice
    order: Tensor | None
    chunks: tuple[Tensor, ...]

    @classmethod
    def make(cls, paths: slice, order: Tensor | None, chunks: tuple[Chunk, ...], backward: bool) -> PathGroup:
        pieces = []
        for chunk in chunks if order is not None else ():
            piece = order.narrow(0, chunk.position(order.shape[0], backward), chunk.size)
            if chunk.segments > 1:
                piece = piece.view(chunk.segments, chunk.steps).t().reshape(-1)
            pieces.append(piece)
        return cls(paths, order, tuple(pieces))


def by_position(x: Tensor, groups: int) -> Tensor:
    """(b, 1|K, D, L) or (b, 1|K, G, N, L) as (L, 1|K, b, G, D/G) or (L, 1|K, b, G, N), a view."""
    if x.dim() == 4:
        x = x.unflatten(2, (groups, -1))
    return x.permute(4, 1, 0, 2, 3)


class Reader:
    """Fill a buffer with chunks of an input.

    Args:
        x: (L, 1|K, b, G, C).
        groups: The orders it is read in.
        buffer: (steps, segments, 1|K, b, G, C), dense; K where there are several groups.
        backward: The slab walks backward.
    """

    def __init__(self, x: Tensor, groups: list[PathGroup], buffer: Tensor, backward: bool) -> None:
        self._length, self._backward = x.shape[0], backward
        # Reading across the grain, one value a cache line, is slow: such pieces are first copied along it.
        self._across = x.stride(-1) != 1 and x.stride(0) == 1
        self._parts = []
        for group in groups:
            alone = len(groups) == 1
            source = x if alone or x.shape[1] == 1 else x[:, group.paths]
            target = buffer if alone else buffer[:, :, group.paths]
            flat = target.flatten(0, 1)
            if group.order is None:
                # In the order of positions.
                target = target.squeeze(1) if buffer.shape[1] == 1 else target.transpose(0, 1)
                self._parts.append((source, target, None, False))
            else:
                direct = source.dtype == flat.dtype and source.shape[1] == flat.shape[1] and not self._across
                self._parts.append((source, flat, group.chunks, direct))

    def read(self, number: int, chunk: Chunk) -> None:
        for source, target, positions, direct in self._parts:
            if positions is None:
                piece = source.narrow(0, chunk.position(self._length, self._backward), chunk.size)
                if self._across:
                    piece = piece.movedim(0, -1).contiguous().movedim(-1, 0)
                if chunk.segments > 1:
                    piece = piece.unflatten(0, (chunk.segments, chunk.steps))
                target.copy_(piece)
            elif direct:
                torch.index_select(source, 0, positions[number], out=target)
            else:
                target.copy_(source.index_select(0, positions[number]))


class Writer:
    """Put a buffer's chunks at their positions in an output or a gradient.

    Args:
        x: (L, 1|K, b, G, C); where it has no path axis, it gets the sum over paths.
        groups: The orders it is written in.
        buffer: (steps, segments, 1|K, b, G, C).
        backward: The slab walks backward.
        add: Add to what is there rather than set it.
        sums: Where given, what is added along an index map is first gathered here in the map's own order, one tensor a
            map; :meth:`finish` adds them to `x`. Writing along a map costs several times as much as reading along it.
    """

    def __init__(
        self,
        x: Tensor,
        groups: list[PathGroup],
        buffer: Tensor,
        backward: bool,
        add: bool,
        sums: dict[int, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._length, self._backward, self._add = x.shape[0], backward, add
        self._parts = []
        for group in groups:
            alone = len(groups) == 1
            values = buffer if alone else buffer[:, :, group.paths]
            target = x if alone or x.shape[1] == 1 else x[:, group.paths]
            reduce = target.shape[1] == 1 and values.shape[2] > 1
            positions = group.chunks if group.order is not None else None
            if positions is not None and add and sums is not None:
                key = id(group.order)
                if key not in sums:
                    sums[key] = group.order, values.new_zeros((self._length, *values.shape[2:]))
                target, positions = sums[key][1], None
                reduce = target.shape[1] == 1 and values.shape[2] > 1
            self._parts.append((target, values, positions, reduce))

    def write(self, number: int, chunk: Chunk) -> None:
        for target, values, positions, reduce in self._parts:
            if reduce:
                values = values.sum(dim=2, keepdim=True)
            if positions is not None:
                values = values.flatten(0, 1).to(target.dtype)
                if self._add:
                    target.index_add_(0, positions[number], values)
                else:
                    target.index_copy_(0, positions[number], values)
                continue
            part = target.narrow(0, chunk.position(self._length, self._backward), chunk.size)
            if chunk.segments == 1:
                values = values.squeeze(1)
            else:
                values, part = values.transpose(0, 1), part.unflatten(0, (chunk.segments, chunk.steps))
            if self._add:
                part.add_(values)
            else:
                part.copy_(values)


def add_in_order(x: Tensor, sums: dict[int, tuple[Tensor, Tensor]], block: int = 1 << 16) -> None:
    """Add to `x` (L, 1, b, G, C) what writers have gathered, block by block so that no whole copy is made."""
    for order, values in sums.values():
        length = x.shape[0]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(length, device=order.device)
        size = max(1, block // max(1, values[0].numel()))
        for start in range(0, length, size):
            part = values.index_select(0, inverse[start : start + size])
            x[start : start + size].add_(part.sum(dim=1, keepdim=True) if part.shape[1] > x.shape[1] else part)
