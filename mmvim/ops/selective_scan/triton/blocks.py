"""Block sizes, from the committed table ``blocks.json``.

A row holds for up to `d_state` states, up to `length` steps (null: any), a dtype ('half', 'float32' or null for any)
and an architecture (90: compute capability 9.x; null: any); of the rows that hold, the first is taken.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

MAX_STATE = 64
TABLE = Path(__file__).with_name('blocks.json')


@dataclass(frozen=True)
class Blocks:
    """How a kernel cuts its work.

    Args:
        block_d: Channels of a program, a power of two.
        steps: Steps of a tile.
        warps: Warps of a program. Defaults to 1.
    """

    block_d: int
    steps: int
    warps: int = 1

    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        return {'BLOCK_D': self.block_d, 'STEPS': self.steps}


@functools.cache
def table() -> dict[str, list[dict]]:
    """The rows of each kernel."""
    return json.loads(TABLE.read_text())


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
    kind = 'float32' if dtype == torch.float32 else 'half'
    for row in table()[kernel]:
        if d_state > row['d_state'] or (row['length'] is not None and length > row['length']):
            continue
        if row['dtype'] not in (None, kind) or row['arch'] not in (None, arch // 10 * 10):
            continue
        return Blocks(row['block_d'], row['steps'], row['warps'])
    raise ValueError(f'{TABLE.name} has no block sizes of {kernel!r} for N={d_state}, L={length}, {dtype}, sm_{arch}')


def fitting(blocks: Blocks, group_dim: int) -> Blocks:
    """The same with fewer channels a program, where a group has no more."""
    size = blocks.block_d
    while size > 32 and size // 2 >= group_dim:
        size //= 2
    return Blocks(**{**asdict(blocks), 'block_d': size})
