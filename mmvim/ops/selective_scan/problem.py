"""The flat form of the arguments that the operators take, and the part of it that one slab works on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmvim.ops.selective_scan.access import PathGroup, by_position
from mmvim.ops.selective_scan.plan import Chunk, PathsPlan, Plan, Slab, make_plan, plan_paths_apart, tuning

# Up to this N, the time goes into reading and writing rather than into the states.
SMALL_STATE = 2


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
    threads: int = 0

    @property
    def num_paths(self) -> int:
        return len(self.map_ids)

    @cached_property
    def groups(self) -> int:
        return max([x.shape[2] for x in (self.B, self.C) if x.dim() == 5], default=1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the state and all arithmetic."""
        return self.A.dtype

    @property
    def length(self) -> int:
        return self.u.shape[-1]

    @cached_property
    def backward_paths(self) -> list[bool]:
        """Paths whose buffers are kept in ascending positions and walked from the last to the first.

        That spares following tensors a flip, but makes a slab of its own of these paths. It pays where a slab has
        enough to do without the others, and does not where a tensor does not follow the paths.
        """
        d_state = self.A.shape[-1]
        step = self.u[..., 0].numel() // self.u.shape[1] * d_state * sum(self.reverse) if self.length else 0
        enough = step >= 12288 or (d_state <= SMALL_STATE and step * self.length >= 1 << 19)
        pays = all(self.follow) and (enough or all(self.reverse))
        return [reverse and pays for reverse in self.reverse]

    @cached_property
    def single_state(self) -> bool:
        """Whether the scan is done by :mod:`~mmvim.ops.selective_scan.single_state`."""
        return (
            self.A.shape[-1] == 1
            and all(self.follow)
            and self.B.dim() == self.C.dim() == 5
            and self.u.device.type == 'cpu'
        )

    def plan(self) -> Plan | PathsPlan:
        dim, d_state = self.A.shape[1:]
        if self.single_state:
            return plan_paths_apart(
                self.u.shape[0], self.groups, dim // self.groups, self.length, tuning(self.u.device, self.threads)
            )
        return make_plan(
            self.backward_paths,
            self.u.shape[0],
            self.groups,
            d_state,
            dim // self.groups,
            self.length,
            tuning(self.u.device, self.threads),
        )

    def skips_alike(self) -> bool:
        """Whether the skip connections D * u of all paths meet at their positions: their sum is then one product."""
        return self.D is not None and not self.stack and self.num_paths > 1 and self.follow[0] and self.u.shape[1] == 1

    def skip_weight(self) -> Tensor:
        """D of all paths together, (D,)."""
        return self.D.sum(dim=0) * (self.num_paths // self.D.shape[0])

    def path_groups(self, slab: Slab, chunks: tuple[Chunk, ...], follow: bool) -> list[PathGroup]:
        """Neighbouring paths of a slab that read, or write, the same positions."""
        ids, reverse = self.map_ids[slab.paths], self.reverse[slab.paths]
        if not follow:
            return [PathGroup.make(slice(0, len(ids)), None, chunks, slab.backward)]
        groups, first = [], 0
        for k in range(1, len(ids) + 1):
            if k < len(ids) and (ids[k], reverse[k]) == (ids[first], reverse[first]):
                continue
            order = None if ids[first] < 0 else self.maps[ids[first]]
            if reverse[first] and not slab.backward:
                order = torch.arange(self.length - 1, -1, -1, device=self.u.device) if order is None else order.flip(0)
            groups.append(PathGroup.make(slice(first, k), order, chunks, slab.backward))
            first = k
        return groups

    def differentiable(self) -> dict[str, Tensor]:
        """The inputs that have a gradient, but z."""
        names = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias', 'initial_state')
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class SlabInputs:
    """One slab's part of the inputs, as views.

    Constant tensors are shaped to meet chunks (steps, segments, K, b, G, N, C) by broadcasting; C is the slab's
    number of channels of a group.
    """

    def __init__(self, problem: Problem, plan: Plan, slab: Slab) -> None:
        p, self.problem, self.slab = problem, problem, slab
        self.num_paths = len(p.map_ids[slab.paths])
        self.channels = slab.channels.stop - slab.channels.start
        self.d_state = p.A.shape[-1]
        self.rows = (self.num_paths, slab.batch.stop - slab.batch.start, p.groups)
        self.state_shape = (*self.rows, self.d_state, self.channels)
        # How a tensor that follows the paths is read, and how one that does not.
        self.followed, raster = (p.path_groups(slab, plan.chunks, follow) for follow in (True, False))
        self.orders = {
            name: self.followed if follow else raster
            for name, follow in zip(('u', 'delta', 'B', 'C'), p.follow, strict=True)
        }
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

    def paths_read(self, name: str) -> int:
        """Paths of the buffer that u or delta is read into: 1 where all read the same."""
        own = getattr(self, name).shape[1]
        return own if len(self.orders[name]) == 1 else self.num_paths

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
        """The slab's part of the states before a chunk, (K, b, G, N, D/G) to (K, b, G, N, C)."""
        return x[self.slab.paths, self.slab.batch, :, :, self.slab.channels]

    def _paths(self, x: Tensor, axis: int) -> Tensor:
        if x.shape[axis] == 1:
            return x
        return x[self.slab.paths] if axis == 0 else x[:, self.slab.paths]
