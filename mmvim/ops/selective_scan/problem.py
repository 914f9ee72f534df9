"""The flat form of the arguments that the operators take, and the part of it that one slab works on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmvim.ops.selective_scan.access import PathGroup, by_position, path_groups
from mmvim.ops.selective_scan.plan import Plan, Slab, make_plan, tuning


@dataclass(frozen=True)
class Problem:
    """What a scan reads; shapes as in :class:`~mmvim.ops.selective_scan.arguments.ScanArguments`."""

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
        """Of the state and all arithmetic."""
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


class SlabInputs:
    """One slab's part of the inputs, as views.

    Constant tensors are shaped to meet chunks (steps, segments, K, b, G, N, C) by broadcasting; C is the slab's
    number of channels of a group.
    """

    def __init__(self, problem: Problem, slab: Slab) -> None:
        p, self.problem, self.slab = problem, problem, slab
        self.num_paths = slab.paths.stop - slab.paths.start
        self.channels = slab.channels.stop - slab.channels.start
        self.d_state = p.A.shape[-1]
        self.rows = (self.num_paths, slab.batch.stop - slab.batch.start, p.groups)
        self.state_shape = (*self.rows, self.d_state, self.channels)
        ids, reverse = p.map_ids[slab.paths], p.reverse[slab.paths]
        # How a tensor that follows the paths is read, and how one that does not.
        self.followed, raster = (path_groups(p.maps, ids, reverse, follow, p.length, p.u.device)
                                 for follow in (True, False))
        self.orders = {name: self.followed if follow else raster
                       for name, follow in zip(('u', 'delta', 'B', 'C'), p.follow, strict=True)}
        # Read in every chunk: (L, 1|K, b, G, C or N).
        self.u, self.delta = self.part(p.u, channels=True), self.part(p.delta, channels=True)
        self.B = self.part(p.B) if p.B.dim() == 5 else None
        self.C = self.part(p.C) if p.C.dim() == 5 else None
        # (1|K, 1, G, N, C) and (1|K, 1, G, C). Dense, for their rows meet every step.
        self.A = self.constant(p.A).contiguous()
        self.B_constant = self.constant(p.B).contiguous() if self.B is None else None
        self.C_constant = self.constant(p.C).contiguous() if self.C is None else None
        self.D = None if p.D is None else self.vector(p.D).contiguous()
        self.delta_bias = None if p.delta_bias is None else self.vector(p.delta_bias).contiguous()

    def part(self, x: Tensor, channels: bool = False) -> Tensor:
        """The slab's part of a tensor (b, 1|K, D, L) or (b, 1|K, G, N, L) as (L, 1|K, b, G, C or N)."""
        x = by_position(self._paths(x, 1), self.problem.groups)[:, :, self.slab.batch]
        return x[..., self.slab.channels] if channels else x

    def constant(self, x: Tensor) -> Tensor:
        """(1|K, D, N) as (1|K, 1, G, N, C), a view."""
        x = self._paths(x, 0).unflatten(1, (self.problem.groups, -1))[:, :, self.slab.channels]
        return x.transpose(-1, -2)[:, None]

    def vector(self, x: Tensor) -> Tensor:
        """(1|K, D) as (1|K, 1, G, C), a view."""
        return self._paths(x, 0).unflatten(1, (self.problem.groups, -1))[:, None, :, self.slab.channels]

    def state(self, x: Tensor) -> Tensor:
        """(b, K, D, N) as (K, b, G, N, C), a view."""
        x = x[self.slab.batch, self.slab.paths].unflatten(2, (self.problem.groups, -1))
        return x[:, :, :, self.slab.channels].permute(1, 0, 2, 4, 3)

    def boundary(self, x: Tensor) -> Tensor:
        """The slab's part of the states before one chunk, (K, b, G, N, D/G) to (K, b, G, N, C)."""
        return x[self.slab.paths, self.slab.batch, :, :, self.slab.channels]

    def _paths(self, x: Tensor, axis: int) -> Tensor:
        return x if x.shape[axis] == 1 else x.narrow(axis, self.slab.paths.start, self.num_paths)


def orders_of(groups: list[PathGroup], own_paths: int, num_paths: int) -> int:
    """Paths of a buffer that a tensor with 1 or K paths of its own is read into."""
    return own_paths if len(groups) == 1 else num_paths
