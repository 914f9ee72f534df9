"""Block sizes by kernel, number of states, length, dtype and architecture; `blocks.py` reads the table.

A row holds for up to `d_state` states, up to `length` steps, a dtype ('half', 'float32') and an architecture (90:
compute capability 9.x); None is any. Of the rows that hold, the first is taken. `warps` is 1 throughout: a sum over
channels then never leaves a warp. The sizes are chosen by what the kernels take of a processor's registers, which
tests/test_ops/test_triton_compile.py watches; no clock has had a part in them.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """See above; block_d: channels of a program, steps: steps of a tile."""

    d_state: int
    length: int | None
    dtype: str | None
    arch: int | None
    block_d: int
    steps: int
    warps: int = 1


TABLE = {
    'forward': (
        Row(4, None, None, None, 64, 8),
        Row(16, None, None, None, 64, 4),
        Row(64, None, None, None, 32, 1),
    ),
    'backward': (
        Row(64, None, None, None, 64, 4),
    ),
    'segments': (
        Row(16, None, None, None, 64, 4),
        Row(64, None, None, None, 32, 1),
    ),
}
