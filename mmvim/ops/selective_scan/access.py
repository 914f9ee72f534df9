"""Read a chunk of a tensor along the paths, and write one back, without a copy of the whole tensor.

Whole tensors are seen as (L, 1|K, b, G, C) in whatever strides the projections left them; a chunk is a dense buffer
(steps, segments, 1|K, b, G, C), channels (or states) fastest, whichever order it was read in.
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
        order: Position of each step, int64 (L,), or None where step t is position t.
        backwards: The order is the raster order from its end.
    """

    paths: slice
    order: Tensor | None
    backwards: bool


def path_groups(maps: Tensor | None, map_ids: list[int], reverse: list[bool], follow: bool, length: int,
                device: torch.device) -> list[PathGroup]:
    """Group the slab's paths for a tensor that follows them or not."""
    num = len(map_ids)
    if not follow:
        return [PathGroup(slice(0, num), None, False)]
    groups, first = [], 0
    for k in range(1, num + 1):
        if k < num and (map_ids[k], reverse[k]) == (map_ids[first], reverse[first]):
            continue
        m, backwards = map_ids[first], reverse[first]
        order = None
        if m >= 0:
            order = maps[m].flip(0) if backwards else maps[m]
        elif backwards:
            order = torch.arange(length - 1, -1, -1, device=device)
        groups.append(PathGroup(slice(first, k), order, m < 0 and backwards))
        first = k
    return groups


def by_position(x: Tensor, groups: int) -> Tensor:
    """(b, 1|K, D, L) or (b, 1|K, G, N, L) as (L, 1|K, b, G, D/G) or (L, 1|K, b, G, N), a view."""
    if x.dim() == 4:
        x = x.unflatten(2, (groups, -1))
    return x.permute(4, 1, 0, 2, 3)


def runs_across(x: Tensor) -> bool:
    """Whether neighbours in memory are neighbours in L rather than in the channels."""
    return x.stride(-1) != 1 and x.stride(0) == 1


class ChunkIndex:
    """Positions of a chunk's steps in the order of the chunk's memory, kept while the same chunk is at work."""

    def __init__(self) -> None:
        self._chunk: Chunk | None = None
        self._positions: dict[int, Tensor] = {}

    def of(self, group: PathGroup, chunk: Chunk) -> Tensor:
        if chunk is not self._chunk:
            self._chunk = chunk
            self._positions.clear()
        key = id(group.order)
        if key not in self._positions:
            positions = group.order[chunk.start:chunk.start + chunk.steps * chunk.segments]
            if chunk.segments > 1:
                positions = positions.view(chunk.segments, chunk.steps).t().reshape(-1)
            self._positions[key] = positions
        return self._positions[key]


class Reader:
    """Fill a buffer with chunks of an input.

    Args:
        x: (L, 1|K, b, G, C).
        groups: The orders it is read in.
        buffer: (steps, segments, 1|K, b, G, C), dense; K where there are several groups.
    """

    def __init__(self, x: Tensor, groups: list[PathGroup], buffer: Tensor) -> None:
        self.length = x.shape[0]
        # Reading across the grain, one value a cache line, is slow: such pieces are first copied along it.
        self.across = runs_across(x)
        self.segments = buffer.shape[1]
        self.parts = []
        for group in groups:
            alone = len(groups) == 1
            source = x if alone or x.shape[1] == 1 else x[:, group.paths]
            target = buffer if alone else buffer[:, :, group.paths]
            # In the order of steps: (steps, ...) or (segments, steps, ...); and in the order of memory: (all, ...).
            ordered = target.squeeze(1) if self.segments == 1 else target.transpose(0, 1)
            flat = target.flatten(0, 1)
            direct = source.dtype == flat.dtype and source.shape[1] == flat.shape[1] and not self.across
            self.parts.append((group, source, ordered, flat, direct))

    def read(self, chunk: Chunk, index: ChunkIndex) -> None:
        start, size = chunk.start, chunk.steps * chunk.segments
        for group, source, ordered, flat, direct in self.parts:
            if group.order is None:
                piece = source.narrow(0, start, size)
                if self.across:
                    piece = piece.movedim(0, -1).contiguous().movedim(-1, 0)
            elif group.backwards and self.across:
                piece = source.narrow(0, self.length - start - size, size).movedim(0, -1).flip(-1).movedim(-1, 0)
            else:
                positions = index.of(group, chunk)
                if direct:
                    torch.index_select(source, 0, positions, out=flat)
                else:
                    flat.copy_(source.index_select(0, positions))
                continue
            ordered.copy_(piece if self.segments == 1 else piece.unflatten(0, (chunk.segments, chunk.steps)))


class Writer:
    """Put a buffer's chunks at their positions in an output or a gradient.

    Args:
        x: (L, 1|K, b, G, C); where it has no path axis, it gets the sum over paths.
        groups: The orders it is written in.
        buffer: (steps, segments, 1|K, b, G, C).
        add: Add to what is there rather than set it.
    """

    def __init__(self, x: Tensor, groups: list[PathGroup], buffer: Tensor, add: bool) -> None:
        self.length, self.add = x.shape[0], add
        self.parts = []
        for group in groups:
            alone = len(groups) == 1
            values = buffer if alone else buffer[:, :, group.paths]
            target = x if alone or x.shape[1] == 1 else x[:, group.paths]
            self.parts.append((group, target, values, target.shape[1] == 1 and values.shape[2] > 1))

    def write(self, chunk: Chunk, index: ChunkIndex) -> None:
        start, size = chunk.start, chunk.steps * chunk.segments
        for group, target, values, reduce in self.parts:
            if reduce:
                values = values.sum(dim=2, keepdim=True)
            if group.order is not None and not group.backwards:
                positions = index.of(group, chunk)
                values = values.flatten(0, 1).to(target.dtype)
                if self.add:
                    target.index_add_(0, positions, values)
                else:
                    target.index_copy_(0, positions, values)
                continue
            if group.backwards:
                values, start_at = values.flip((0, 1)), self.length - start - size
            else:
                start_at = start
            part = target.narrow(0, start_at, size)
            if chunk.segments == 1:
                values = values.squeeze(1)
            else:
                part = part.unflatten(0, (chunk.segments, chunk.steps)).transpose(0, 1)
            if self.add:
                part.add_(values)
            else:
                part.copy_(values)
