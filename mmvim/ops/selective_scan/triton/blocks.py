"""Block sizes, from the committed table in ``block_table.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mmvim.ops.selective_scan.triton.block_table import TABLE, Row

MAX_STATE = 64
MOST_REGISTERS = 255  # of a thread


@dataclass(frozen=True)
class Blocks:
    """How a kernel cuts its work.

    Args:
        block_d: Channels of a program, a power of two.
        steps: Steps of a tile.
        warps: Warps of a program. Defaults to 1.
        states_in_memory: Whether states wait in memory rather than in registers, as they always do in 'backward'.
            Defaults to False.
        registers: Most registers of a thread. Defaults to None, the assembler's own choice.
    """

    block_d: int
    steps: int
    warps: int = 1
    states_in_memory: bool = False
    registers: int | None = None

    def options(self, device: torch.device) -> dict[str, int]:
        """Return the compiler's further options: a bound on registers for NVIDIA's GPUs; others do not know it."""
        nvidia = device.type not in ('xpu',) and torch.version.hip is None
        return {'maxnreg': self.registers} if self.registers and nvidia else {}

    def are_full(self, group_dim: int, steps: int) -> bool:
        """Return whether all blocks and tiles are full, so that nothing in them has to be masked.

        Args:
            group_dim: Channels of a group.
            steps: Steps of a path.

        Examples:
            >>> from mmvim.ops.selective_scan.triton.blocks import Blocks
            >>> Blocks(64, 4).are_full(192, 196), Blocks(128, 4).are_full(192, 196)
            (True, False)
        """
        return group_dim % self.block_d == 0 and steps % self.steps == 0

    def constants(self) -> dict[str, int]:
        """Return the constants that the kernel is compiled with."""
        return {'BLOCK_D': self.block_d, 'STEPS': self.steps}


CHUNK = 16
"""Steps between two states that the forward pass keeps for the backward pass: a sixteenth of all states, which at N 16
is as many numbers as u has. It is not tuned, so shapes are known without a device."""


def blocks_for(kernel: str, d_state: int, length: int, dtype: torch.dtype, arch: int) -> Blocks:
    """Return the block sizes of a kernel.

    Args:
        kernel: 'forward', 'backward' or 'segments'.
        d_state: Number of states, N.
        length: Number of steps.
        dtype: Dtype of u.
        arch: Compute capability, 10 * major + minor.

    Raises:
        ValueError: If the table has none.
    """
    row = row_for(kernel, d_state, length, dtype, arch)
    return Blocks(row.block_d, row.steps, row.warps, row.states_in_memory, row.registers)


def row_for(kernel: str, d_state: int, length: int, dtype: torch.dtype, arch: int) -> Row:
    """Return the first row of the table that applies; arguments and errors as in :func:`blocks_for`."""
    kind = 'float32' if dtype == torch.float32 else 'half'
    for row in TABLE[kernel]:
        if d_state > row.d_state or (row.length is not None and length > row.length):
            continue
        if row.dtype in (None, kind) and row.arch in (None, arch, arch // 10 * 10):
            return row
    raise ValueError(f'the table has no block sizes of {kernel!r} for N={d_state}, L={length}, {dtype}, sm_{arch}')


def fit_blocks(
    blocks: Blocks, kernel: str, dim: int, group_dim: int, partial: bool = False, whole: bool = True
) -> Blocks:
    """Return block sizes with no more channels than a group has, and smaller ones where registers are short.

    If D is not a multiple of 16 (MambaVision-L: 392), the compiler cannot read two channels at once, and the backward
    kernel then needs more registers than there are; with half the steps it spills none. Nor does it where each step may
    be padding and states are several, nor the kernel of segments with at most 4 steps there. Blocks of 128 channels
    leave the backward kernel no register for a mask, or for the pointer to the first state's gradient.

    Args:
        blocks: Block sizes of the table.
        kernel: 'forward', 'backward' or 'segments'.
        dim: Number of channels, D.
        group_dim: Channels of a group.
        partial: Whether paths may have padding steps. Defaults to False.
        whole: Whether blocks of channels and tiles of steps are all full, and no first state is given. Defaults to
            True.
    """
    size, steps = blocks.block_d, blocks.steps
    if kernel == 'backward' and not whole:
        size = min(size, 64)
    if kernel == 'backward' and (dim % 16 or (partial and blocks.registers == MOST_REGISTERS)):
        size, steps = min(size, 64), min(steps, 2)
    if kernel == 'segments' and partial:
        steps = min(steps, 4)
    while size > 32 and size // 2 >= group_dim:
        size //= 2
    return replace(blocks, block_d=size, steps=steps)
