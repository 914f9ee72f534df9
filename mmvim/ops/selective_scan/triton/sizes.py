"""The sizes of a scan, and how its steps are cut into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton import cut
from mmvim.ops.selective_scan.triton.blocks import CHUNK, Blocks, blocks_for, fit_blocks
from mmvim.ops.selective_scan.triton.memory import new_tensor
from mmvim.ops.triton_host.device import architecture, processors


def count_map_bits(map_ids: Sequence[int]) -> int:
    """Return how many bits hold the number of any path's map, counted from 1 (0: raster order), 3 at least.

    Args:
        map_ids: Row of the map of each path, -1 for the raster order.
    """
    return max(3, (max(map_ids) + 1).bit_length())


@dataclass
class Sizes:
    """Sizes of a scan, and the arguments that all its kernels take.

    Args:
        args: The scan.
        device: Where the kernels run.
    """

    args: ScanArguments
    device: torch.device

    @cached_property
    def batch(self) -> int:
        """Batch elements, b."""
        return self.args.u.shape[0]

    @cached_property
    def paths(self) -> int:
        """Paths, K."""
        return self.args.num_paths

    @cached_property
    def dim(self) -> int:
        """Channels, D."""
        return self.args.u.shape[2]

    @cached_property
    def length(self) -> int:
        """Positions, L."""
        return self.args.length

    @cached_property
    def num_steps(self) -> int:
        """Steps of a path, T."""
        return self.args.steps

    @cached_property
    def d_state(self) -> int:
        """States, N."""
        return self.args.A.shape[-1]

    @cached_property
    def groups(self) -> int:
        """Groups of channels that share B and C, G."""
        return self.args.B.shape[2]

    @cached_property
    def group_dim(self) -> int:
        """Channels of a group."""
        return self.dim // self.groups

    @cached_property
    def chunks(self) -> int:
        """Chunks of a path, each with a state that the forward pass keeps."""
        return -(-self.num_steps // CHUNK)

    @cached_property
    def map_bits(self) -> int:
        """Bits that hold the number of a path's map."""
        return count_map_bits(self.args.map_ids)

    @cached_property
    def map_ids(self) -> int:
        """The number of every path's map in ``map_bits`` bits each, as a signed integer of 64 bits."""
        packed = sum((number + 1) << (self.map_bits * k) for k, number in enumerate(self.args.map_ids))
        return packed - (1 << 64) if packed >= 1 << 63 else packed

    @cached_property
    def reverse(self) -> int:
        """The direction of every path in one bit each, 1 for backwards."""
        return sum(bool(backward) << k for k, backward in enumerate(self.args.reverse))

    @cached_property
    def follow(self) -> dict[str, bool]:
        """Which tensors follow the paths, as the kernels' arguments."""
        return {f'FOLLOW_{name}': bool(on) for name, on in zip(('U', 'DELTA', 'B', 'C'), self.args.follow, strict=True)}

    def columns(self, name: str) -> tuple[int, bool]:
        """Return how many columns u, delta, B or C has, L or T, and whether there may be some that no step reads."""
        follows = self.follow[f'FOLLOW_{name.upper()}']
        return self.length if follows else self.num_steps, follows and self.args.partial

    def zeros_like(self, x: Tensor) -> Tensor | None:
        """Return what padding steps read of B or C: a zero for each state, or None if there are no such steps."""
        return self._zeros.view(x.dtype) if self.args.partial else None

    @cached_property
    def _zeros(self) -> Tensor:
        """Zeros for all states, of as many bytes as the widest dtype has."""
        return new_tensor(self.args.A, (self.d_state,), clear=True)

    @cached_property
    def gpu(self) -> cut.Gpu:
        """What the model of time knows of the device."""
        return cut.Gpu(processors(self.device), architecture(self.device))

    @cached_property
    def work(self) -> cut.Work:
        """What there is to cut."""
        return cut.Work(self.batch * self.paths, self.groups, self.group_dim, self.num_steps, self.d_state)

    @cached_property
    def wide(self) -> bool:
        """Whether an offset within one batch element and path may need more than 31 bits."""
        args = self.args
        strides = (x.stride(-1) for x in (args.u, args.delta, args.B, args.C, args.z) if x is not None)
        return max(self.length, self.num_steps) * max(self.dim, *strides) >= 2**31

    def wide_with(self, x: Tensor) -> bool:
        """Return the same if the kernel reads another tensor of positions, too."""
        return self.wide or self.length * x.stride(-1) >= 2**31

    def blocks(self, kernel: str) -> Blocks:
        """Return the block sizes of a kernel by the table, whose width is the most that :meth:`cut` may choose."""
        blocks = blocks_for(kernel, self.d_state, self.num_steps, self.args.u.dtype, self.gpu.arch)
        whole = blocks.are_full(self.group_dim, self.num_steps) and self.args.initial_state is None
        return fit_blocks(blocks, kernel, self.dim, self.group_dim, self.args.partial, whole)

    def cut(self, kernel: str, segments: int | None = None) -> tuple[Blocks, int, int]:
        """Return the block sizes of a kernel, into how many segments a path is cut, and the steps of each.

        Args:
            kernel: 'forward' or 'backward'.
            segments: Their number, where it is not to be chosen; the blocks are the table's then. Defaults to None.
        """
        blocks = self.blocks(kernel)
        if segments is not None:
            return blocks, *self.divide(segments)
        chosen = cut.choose(kernel, self.work, blocks.block_d, self.gpu)
        return replace(blocks, block_d=chosen.width), chosen.segments, chosen.steps

    def blocks_of_ends(self, segments: tuple[int, int], adjoint: bool) -> Blocks:
        """Return the block sizes of the kernel that finds the ends of segments: their number, and the steps of each."""
        blocks = self.blocks('segments')
        _, width = cut.clocks_of_ends(self.work, *segments, adjoint, self.gpu)
        return replace(blocks, block_d=min(width, blocks.block_d))

    def blocks_of_group(self, blocks: Blocks) -> int:
        """Return how many programs share the channels of a group."""
        return -(-self.group_dim // blocks.block_d)

    def programs(self, blocks: Blocks, segments: int) -> int:
        """Return how many programs a kernel has that takes one segment in each."""
        return self.batch * self.paths * segments * self.groups * self.blocks_of_group(blocks)

    def divide(self, segments: int) -> tuple[int, int]:
        """Return that number of segments, or as many as there are chunks if these are fewer, and the steps of each."""
        steps = -(-self.chunks // segments) * CHUNK
        return (-(-self.num_steps // steps), steps) if segments > 1 else (1, self.num_steps)

    def common(self, blocks: Blocks, segments: int, segment: int) -> dict[str, Any]:
        """Return the arguments that the kernels over segments have in common.

        Args:
            blocks: Block sizes of the kernel.
            segments: Number of segments.
            segment: Steps of a segment.
        """
        return {
            'dim': self.dim,
            'group_dim': self.group_dim,
            'blocks': self.groups * self.blocks_of_group(blocks),
            'segment': segment,
            'segments': segments,
            'SOFTPLUS': self.args.delta_softplus,
            'EXACT': blocks.are_full(self.group_dim, self.num_steps),
            'WIDE': self.wide,
            **self.paths_and_states(),
            **blocks.constants(),
        }

    def paths_and_states(self) -> dict[str, Any]:
        """Return what a kernel needs to know to follow the paths, and the number of states."""
        return {
            'num_steps': self.num_steps,
            'length': self.length if self.args.partial else None,
            'maps_ptr': self.args.maps,
            'map_ids': self.map_ids,
            'reverse': self.reverse,
            'PATHS': self.paths,
            'MAP_BITS': self.map_bits,
            'N': self.d_state,
        }
