"""Read a chunk of a tensor along the paths, and write one back, without a copy of the whole tensor.

Tensors come as (b, 1|K, rows..., L) in whatever strides the projections left; a chunk is (steps, segments, 1|K, b, rows...)
with the channels contiguous, whichever order it is read in.
"""

from __future__ import annotations

import math
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


class Reader:
    """Chunks of one input.

    Args:
        x: (L, 1|K, b, G, D) view of the slab's part, see :func:`by_position`.
        groups: The orders it is read in.
        num_paths: Paths of the slab.
        dtype: Of the chunks.
    """

    def __init__(self, x: Tensor, groups: list[PathGroup], num_paths: int, dtype: torch.dtype) -> None:
        self.x, self.groups, self.dtype = x, groups, dtype
        self.length = x.shape[0]
        self.paths = x.shape[1] if len(groups) == 1 else num_paths
        self.rows = tuple(x.shape[2:])
        # Reading across the grain, one value a cache line, is slow: such pieces are first copied along it.
        self.across = x.stride(-1) != 1 and x.stride(0) == 1
        self.buffer: Tensor | None = None

    def read(self, chunk: Chunk, index: ChunkIndex) -> Tensor:
        """(steps, segments, 1|K, b, G, D); overwritten by the next call."""
        shape = (chunk.steps, chunk.segments, self.paths, *self.rows)
        numel = math.prod(shape)
        if self.buffer is None or self.buffer.numel() < numel:
            self.buffer = self.x.new_empty(numel, dtype=self.dtype)
        out = self.buffer[:numel].view(shape)
        for group in self.groups:
            source = self.x if self.x.shape[1] == 1 or len(self.groups) == 1 else self.x[:, group.paths]
            target = out if len(self.groups) == 1 else out[:, :, group.paths]
            self._read_group(source, target, chunk, group, index)
        return out

    def _read_group(self, source: Tensor, target: Tensor, chunk: Chunk, group: PathGroup, index: ChunkIndex) -> None:
        size = chunk.steps * chunk.segments
        if group.order is None or (self.across and group.backwards):
            if group.order is None:
                piece = source[chunk.start:chunk.start + size]
                if self.across:
                    piece = piece.movedim(0, -1).contiguous().movedim(-1, 0)
            else:
                stop = self.length - chunk.start
                piece = source[stop - size:stop].movedim(0, -1).flip(-1).movedim(-1, 0)
            target.copy_(_fold(piece, chunk))
            return
        positions = index.of(group, chunk)
        flat = target.flatten(0, 1)
        if source.dtype == self.dtype and source.shape[1] == flat.shape[1] and not self.across:
            torch.index_select(source, 0, positions, out=flat)
        else:
            flat.copy_(source.index_select(0, positions))


class Writer:
    """Put chunks of an output or a gradient at their positions.

    Args:
        x: (L, 1|K, b, G, D) view of the slab's part.
        groups: The orders it is written in.
        add: Add to what is there rather than set it.
    """

    def __init__(self, x: Tensor, groups: list[PathGroup], add: bool) -> None:
        self.x, self.groups, self.add = x, groups, add
        self.length = x.shape[0]
        self.across = x.stride(-1) != 1 and x.stride(0) == 1

    def write(self, values: Tensor, chunk: Chunk, index: ChunkIndex) -> None:
        """Write (steps, segments, 1|K, b, G, D); where the tensor has no path axis, the sum over a group's paths."""
        for group in self.groups:
            piece = values[:, :, group.paths] if len(self.groups) > 1 else values
            target = self.x
            if self.x.shape[1] == 1:
                if piece.shape[2] > 1:
                    piece = piece.sum(dim=2, keepdim=True)
            elif len(self.groups) > 1:
                target = self.x[:, group.paths]
            self._write_group(target, piece, chunk, group, index)

    def _write_group(self, target: Tensor, piece: Tensor, chunk: Chunk, group: PathGroup, index: ChunkIndex) -> None:
        size = chunk.steps * chunk.segments
        if group.order is None or group.backwards:
            if group.order is None:
                part = target[chunk.start:chunk.start + size]
            else:
                stop = self.length - chunk.start
                part = target[stop - size:stop]
                piece = piece.flip((0, 1))
            part = _fold(part, chunk)
            if self.add:
                part.add_(piece)
            else:
                part.copy_(piece)
            return
        positions = index.of(group, chunk)
        flat = piece.flatten(0, 1)
        if self.add:
            target.index_add_(0, positions, flat.to(target.dtype))
        else:
            target.index_copy_(0, positions, flat.to(target.dtype))


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


def _fold(piece: Tensor, chunk: Chunk) -> Tensor:
    """(steps * segments, ...) in order of steps as (steps, segments, ...), a view."""
    if chunk.segments == 1:
        return piece.unsqueeze(1)
    return piece.unflatten(0, (chunk.segments, chunk.steps)).transpose(0, 1)

