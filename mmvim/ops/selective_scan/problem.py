"""The flat form of the arguments that the operators take, and the part of it that one slab works on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmvim.ops.selective_scan.access import PathGroup, Reader, by_position, path_groups
from mmvim.ops.selective_scan.plan import Plan, Slab, make_plan, tuning


@dataclass(frozen=True)
class Problem:
    """What a scan reads, see :class:`ScanArguments` for the shapes, and how it is cut."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None
    maps: Tensor | None
    map_ids: list[int]
    reverse: list[bool]
    follow: list[bool]
    delta_softplus: bool
    stack: bool

    @property
    def num_paths(self) -> int:
        return len(self.map_ids)

    @property
    def groups(self) -> int:
        return max([x.shape[2] for x in (self.B, self.C) if x.dim() == 5], default=1)

    @property
    def dtype(self) -> torch.dtype:
        return self.A.dtype

    @property
    def length(self) -> int:
        return self.u.shape[-1]

    def plan(self) -> Plan:
        dim, d_state = self.A.shape[1:]
        return make_plan(self.num_paths, self.u.shape[0], self.groups, d_state, dim // self.groups, self.length,
                         tuning(self.u.device))

    def differentiable(self) -> dict[str, Tensor]:
        """The inputs that have a gradient, but z."""
        names = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias', 'initial_state')
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def path_groups(self, slab: Slab) -> tuple[list[PathGroup], list[PathGroup]]:
        """How a following tensor and one that does not follow are read by the slab's paths."""
        ids, reverse = self.map_ids[slab.paths], self.reverse[slab.paths]
        return tuple(path_groups(self.maps, ids, reverse, follow, self.length, self.u.device)
                     for follow in (True, False))


class SlabInputs:
    """Readers of the varying inputs and views of the constant ones, for one slab.

    Constant tensors are shaped to meet chunks (steps, segments, K, b, G, N, D) by broadcasting; "channels" below is D/G,
    cut to the slab.
    """

    def __init__(self, problem: Problem, slab: Slab, followed: list[PathGroup], raster: list[PathGroup]) -> None:
        p, self.problem, self.slab = problem, problem, slab
        self.num_paths = slab.paths.stop - slab.paths.start
        self.batch = slab.batch.stop - slab.batch.start
        self.channels = slab.channels.stop - slab.channels.start
        self.rows = (self.num_paths, self.batch, p.groups)
        self.d_state = p.A.shape[-1]
        orders = [followed if follow else raster for follow in p.follow]
        self.u = self.reader(self.part(p.u, channels=True), orders[0])
        self.delta = self.reader(self.part(p.delta, channels=True), orders[1])
        self.B = self.reader(self.part(p.B), orders[2]) if p.B.dim() == 5 else None
        self.C = self.reader(self.part(p.C), orders[3]) if p.C.dim() == 5 else None
        # (1|K, 1, G, N, channels) and (1|K, 1, G, channels)
        self.A = self.constant(p.A)
        self.B_constant = self.constant(p.B) if p.B.dim() == 3 else None
        self.C_constant = self.constant(p.C) if p.C.dim() == 3 else None
        self.D = None if p.D is None else self.vector(p.D)
        self.delta_bias = None if p.delta_bias is None else self.vector(p.delta_bias)

    def reader(self, x: Tensor, groups: list[PathGroup]) -> Reader:
        return Reader(x, groups, self.num_paths, self.problem.dtype)

    def part(self, x: Tensor, channels: bool = False) -> Tensor:
        """The slab's part of a tensor with a path axis, (L, 1|K, b, G, channels or N)."""
        x = by_position(self._paths(x, 1), self.problem.groups)[:, :, self.slab.batch]
        return x[..., self.slab.channels] if channels else x

    def constant(self, x: Tensor) -> Tensor:
        """(1|K, D, N) as (1|K, 1, G, N, channels), a view."""
        x = self._paths(x, 0).unflatten(1, (self.problem.groups, -1))[:, :, self.slab.channels]
        return x.transpose(-1, -2)[:, None]

    def vector(self, x: Tensor) -> Tensor:
        """(1|K, D) as (1|K, 1, G, channels), a view."""
        return self._paths(x, 0).unflatten(1, (self.problem.groups, -1))[:, None, :, self.slab.channels]

    def state(self, x: Tensor) -> Tensor:
        """(b, K, D, N) as (K, b, G, N, channels), a view."""
        x = x[self.slab.batch, self.slab.paths].unflatten(2, (self.problem.groups, -1))
        return x[:, :, :, self.slab.channels].permute(1, 0, 2, 4, 3)

    def boundary(self, x: Tensor) -> Tensor:
        """The slab's part of the states before one chunk, (K, b, G, N, D/G)."""
        return x[self.slab.paths, self.slab.batch, :, :, self.slab.channels]

    def _paths(self, x: Tensor, axis: int) -> Tensor:
        if x.shape[axis] == 1:
            return x
        return x.narrow(axis, self.slab.paths.start, self.num_paths)
