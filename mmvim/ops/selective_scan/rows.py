"""How the scan in plain PyTorch reads and writes: a chunk of steps at a time, gathered along all paths and put back.

Shapes: T steps, K paths, b batch, G groups, N states, C channels of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import FOLLOWERS, ScanArguments


class Chunk(NamedTuple):
    """Steps ``start`` to ``start + steps * segments - 1``; step t of segment s is ``start + s * steps + t``."""

    start: int
    steps: int
    segments: int

    @property
    def size(self) -> int:
        """Number of steps, T."""
        return self.steps * self.segments


class Rows:
    """The tensors of one call as rows, one for each position, or for each step if they are not read along the paths."""

    def __init__(self, args: ScanArguments) -> None:
        self.args, self.paths, self.groups = args, args.num_paths, args.groups
        self.batch, _, self.dim, _ = args.u.shape
        self.follow = {**dict(zip(FOLLOWERS, args.follow, strict=True)), 'y': True}
        self.rows = {
            name: self.as_rows(name, getattr(args, name)) for name in FOLLOWERS if getattr(args, name).dim() > 3
        }
        steps = torch.arange(args.steps, device=args.u.device)
        orders = [steps if m < 0 or args.maps is None else args.maps[m] for m in args.map_ids]
        orders = [order.flip(0) if back else order for order, back in zip(orders, args.reverse, strict=True)]
        # Position at each step of each path, int64 (steps, K): along the paths, and of what does not follow them.
        self.raster = steps[:, None].expand(-1, self.paths)
        self.order = self.raster if args.maps is None and not any(args.reverse) else torch.stack(orders, dim=1)
        self.padding: Tensor | None = None
        if args.partial:  # padding steps read position 0, and what they read is then set to zero
            self.padding, self.order = self.order < 0, self.order.clamp(min=0)
        self.each = torch.arange(self.paths, device=args.u.device)

    def constant(self, x: Tensor) -> Tensor:
        """Return (1|K, D, N) as (1|K, 1, G, N, C), or (1|K, D) as (1|K, 1, G, C), a view."""
        x = x.unflatten(1, (self.groups, -1))[:, None]  # (1|K, 1, G, C, [N])
        return x.mT if x.dim() == 5 else x

    def columns(self, name: str) -> int:
        """Return how many rows a path has of its own, or all of them share: L, or the number of steps."""
        return self.args.length if self.follow[name] else self.args.steps

    def as_rows(self, name: str, x: Tensor, clear: bool = False) -> Tensor:
        """Return (b, 1|K, D, L) or (b, 1|K, G, N, L) as (1|K * L, b, G, C or N), a view where that can be.

        Rows that are not dense are copied, once a call, to be read fast; so are those of several paths and groups.
        ``clear`` sets rows to zero that paths share and add to, or that no step may reach.
        """
        x = (x.unflatten(2, (self.groups, -1)) if x.dim() == 4 else x).permute(1, 4, 0, 2, 3)  # (1|K, L, b, G, C or N)
        shared = x.shape[0] == 1 and self.paths > 1
        x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
        rows = x.flatten(0, 1)
        return rows.zero_() if clear and (shared or (self.args.partial and self.follow[name])) else rows

    def places(self, name: str, rows: Tensor, chunk: Chunk) -> Tensor:
        """Return the rows that a chunk's steps read or write, int64 (T, K)."""
        order = (self.order if self.follow[name] else self.raster)[chunk.start : chunk.start + chunk.size]
        columns = self.columns(name)
        return order if len(rows) == columns else order + self.each * columns

    def padded(self, name: str, chunk: Chunk) -> Tensor | None:
        """Return which steps of a chunk are padding for a tensor, bool (T, K), or None."""
        if self.padding is None or not self.follow[name]:
            return None
        return self.padding[chunk.start : chunk.start + chunk.size]

    def read(self, name: str, rows: Tensor, chunk: Chunk) -> Tensor:
        """Return a chunk along the paths, (T, K, b, G, C or N), in the state's dtype."""
        if self.order is self.raster or not self.follow[name]:  # (T, 1|K, b, G, C or N), a view of neighbouring rows
            part = rows.unflatten(0, (-1, self.columns(name)))[:, chunk.start : chunk.start + chunk.size]
            return part.transpose(0, 1).to(self.args.A.dtype)
        part = rows.index_select(0, self.places(name, rows, chunk).flatten()).to(self.args.A.dtype)
        part, padded = part.unflatten(0, (chunk.size, self.paths)), self.padded(name, chunk)
        return part if padded is None else part.masked_fill_(padded[..., None, None, None], 0)

    def write(self, name: str, rows: Tensor, chunk: Chunk, values: Tensor) -> None:
        """Add a chunk (T, K, b, G, C or N) to rows, over the paths too where they share it, always in one order."""
        padded = self.padded(name, chunk)
        if self.paths == 1 or len(rows) != self.columns(name):  # each row is written once
            places, values = self.places(name, rows, chunk).flatten(), values.flatten(0, 1)
            if padded is not None:
                kept = torch.nonzero(~padded.flatten())[:, 0]
                places, values = places[kept], values[kept]
            rows.index_copy_(0, places, values.to(rows.dtype))
        elif not self.follow[name]:
            rows[chunk.start : chunk.start + chunk.size] += values.sum(1)
        else:  # no row twice in an operation
            for k, (at, value) in enumerate(
                zip(self.places(name, rows, chunk).unbind(1), values.unbind(1), strict=True)
            ):
                if padded is not None:
                    kept = torch.nonzero(~padded[:, k])[:, 0]
                    at, value = at[kept], value[kept]
                if rows.device.type == 'cpu':  # where index_add_ takes twice as long
                    rows.index_copy_(0, at, rows.index_select(0, at).add_(value))
                else:
                    rows.index_add_(0, at, value)
