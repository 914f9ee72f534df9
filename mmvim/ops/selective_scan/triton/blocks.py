"""Block sizes, from the committed table in `block_table.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mmvim.ops.selective_scan.triton.block_table import TABLE, Row

MAX_STATE = 64


@dataclass(frozen=True)
class Blocks:
    """How a kernel cuts its work.

    Args:
        block_d: Channels of a program, a power of two.
        steps: Steps of a tile.
        warps: Warps of a program. Defaults to 1.
        parked: States wait in memory rather than in registers ('backward': always). Defaults to False.
        registers: Bound on the registers of a thread. Defaults to None, the assembler's own.
    """

    block_d: int
    steps: int
    warps: int = 1
    parked: bool = False
    registers: int | None = None

    def options(self, device: torch.device) -> dict[str, int]:
        """What else the compiler of NVIDIA's GPUs is told; others do not know the option."""
        nvidia = device.type not in ('xpu',) and torch.version.hip is None
        return {'maxnreg': self.registers} if self.registers and nvidia else {}

    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        return {'BLOCK_D': self.block_d, 'STEPS': self.steps}


CHUNK = 16
"""Steps between two states that the forward pass keeps for the backward pass. It is no matter of tuning, so that shapes
are known without a device: a sixteenth of all states, at N 16 as many numbers as u has."""


def blocks_for(kernel: str, d_state: int, length: int, dtype: torch.dtype, arch: int) -> Blocks:
    """Block sizes of a kernel.

    Args:
        kernel: 'forward', 'backward' or 'segments'.
        d_state: N.
        length: L.
        dtype: Of u.
        arch: Compute capability, 10 * major + minor.
    """
    row = row_for(kernel, d_state, length, dtype, arch)
    return Blocks(row.block_d, row.steps, row.warps, row.parked, row.registers)


def row_for(kernel: str, d_state: int, length: int, dtype: torch.dtype, arch: int) -> Row:
    """The row of the table that holds; arguments as for :func:`blocks_for`.

    Raises:
        ValueError: If there is none.
    """
    kind = 'float32' if dtype == torch.float32 else 'half'
    for row in TABLE[kernel]:
        if d_state > row.d_state or (row.length is not None and length > row.length):
            continue
        if row.dtype in (None, kind) and row.arch in (None, arch, arch // 10 * 10):
            return row
    raise ValueError(f'the table has no block sizes of {kernel!r} for N={d_state}, L={length}, {dtype}, sm_{arch}')


def fitting(blocks: Blocks, kernel: str, dim: int, group_dim: int) -> Blocks:
    """The same with fewer channels a program, where a group has no more, and smaller where registers are short.

    The compiler cannot read two channels at once where D is no multiple of 16 (MambaVision-L: 392), and what the
    backward kernel does instead takes more registers than there are; with half the steps it spills none.
    """
    size, steps = blocks.block_d, blocks.steps
    if kernel == 'backward' and dim % 16:
        size, steps = min(size, 64), min(steps, 2)
    while size > 32 and size // 2 >= group_dim:
        size //= 2
    return replace(blocks, block_d=size, steps=steps)
