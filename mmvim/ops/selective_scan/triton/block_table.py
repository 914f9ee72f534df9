"""Block sizes by kernel, number of states, length, dtype and architecture; ``blocks.py`` reads the table.

A row applies up to ``d_state`` states, up to ``length`` steps, to a dtype ('half', 'float32') and an architecture (86:
compute capability 8.6 alone; 80: all of 8.x); None is any. The first row that applies is used. ``warps`` is 1
throughout, so that a sum over channels never leaves a warp.

The sizes have not been timed on a GPU yet. They were chosen by looking at what the compiler makes of the kernels:
tests/test_ops/triton_resources.py compiles them without a GPU and records registers, tests/test_ops/triton_counts.py
counts "work", the instructions for a step of 32 channels, in the machine code of sm_90. "Room" is how many warps the
registers of a processor hold. The numbers are of float16 unless said otherwise.

- forward, N 1: wider blocks have less work, because lanes share what a step costs whatever its channels, and less room.
  128 channels, 4 steps (work 32, room 21) keep 42 KB of loads under way on a processor, where 4.8 TB/s and a latency
  of 0.7 us ask for 25. Hence 128 in half precision. Float32 stays at 64, as its bytes take twice as long.
- forward, N 8 and 16: 128 channels would lower the work by a fifth, and the room from 16 and 12 to 12 and 8. Which
  counts more has to be measured; until then it stays at 64.
- forward, more than 16 states: registers do not hold them, so they wait in memory (``forward.py``). There is room for
  14 warps, for 12 up to 31 states.
- backward: 64 channels, 4 steps; work 490 with N 16, 97 with N 1. 128 channels, 4 steps have 405 and 79, since a sum
  over lanes covers twice as many channels, but leave no register to spare. They spill on sm_80, sm_100, sm_103 and
  sm_120; on sm_90 with N 8 on one path without a gate, and with N 16 where something is masked or padded and where a
  gate meets a first state. Hence 128 in half precision with N 1 and 16 on sm_90 alone, and there where all is whole:
  see ``blocks.fit_blocks``. With N 16 the states that wait are then 48 KB a program, on a full H200 52 MB, where the L2
  cache has 50; with 64 channels they are half of it. Whether they leave the cache has to be measured. 2 steps, which
  the table once had with 128 channels, read and write them twice as often. They are left where 4 spill: 9 to 15 states,
  float32 on sm_100 beyond one state, and what ``blocks.fit_blocks`` says.
- segments, more than 16 states: 8 steps, so that more of them share the reads and writes of a state, with 16 warps.
- ``registers``: by itself the assembler aims at so many warps that it spills some bytes (forward: to 96 registers with
  N 8 and N 1 on sm_90, to 128 with N 16 on sm_100 and N 64 on sm_80; backward: to 168 with N 1 on sm_90 and N 16 on
  sm_100, in float32; segments: to 96 with N 15 on sm_80 in float32). With these bounds nothing recorded spills in a
  loop. Outside of their loops the backward kernels of masked blocks (MambaVision-T's 160 channels, an odd number of
  steps) put aside 8 to 24 bytes, once in a program. In the forward kernel, the 152 for 32 states and more would be too
  few for 24 on sm_80.
- Rows of fewer than 384 steps have narrow blocks, so that there are more programs. How narrow the blocks of any row
  become, and into how many segments it is cut, a model of time decides (``cut.py``); the table says how wide they are
  at most.

All NVIDIA architectures from sm_80 on have the same 65536 registers a processor, and the kernels use hardly any shared
memory. They differ in how the assembler spends the registers, and in how many programs a processor takes at most. The
machine code thus justifies a row of its own for one more architecture only:

- sm_86 takes at most 16 programs. Forward, N 1 in float32: 64 channels leave registers for 18 warps and more; 128
  channels, with at most 128 registers where D is a multiple of 16, for just these 16. So the room is the same and the
  work is less.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table; the first four fields say what it applies to, see above.

    Attributes:
        block_d: Channels of a program.
        steps: Steps of a tile.
        warps: Warps of a program. Defaults to 1.
        states_in_memory: Whether states wait in memory rather than in registers, as they always do in 'backward'.
            Defaults to False.
        registers: Most registers of a thread; the assembler uses what it is given. Defaults to None, its own choice.
    """

    d_state: int
    length: int | None
    dtype: str | None
    arch: int | None
    block_d: int
    steps: int
    warps: int = 1
    states_in_memory: bool = False
    registers: int | None = None


TABLE = {
    'forward': (
        Row(1, 383, None, None, 64, 4),
        Row(1, None, 'half', None, 128, 4, registers=104),
        Row(1, None, 'float32', 86, 128, 4),
        Row(4, None, None, None, 64, 4),
        Row(8, None, 'half', None, 64, 4, registers=128),
        Row(8, None, None, None, 64, 4, registers=136),
        Row(16, None, None, None, 64, 4, registers=168),
        Row(31, None, None, None, 64, 4, states_in_memory=True, registers=160),
        Row(64, None, None, None, 64, 4, states_in_memory=True, registers=152),
    ),
    'backward': (
        Row(1, None, 'half', 90, 128, 4, registers=192),
        Row(1, None, None, None, 64, 4, registers=192),
        Row(64, None, 'float32', 100, 64, 2, registers=255),
        Row(8, None, None, None, 64, 4, registers=255),
        Row(15, None, None, None, 64, 2, registers=255),
        Row(16, None, 'half', 90, 128, 4, registers=255),
        Row(64, None, None, None, 64, 4, registers=255),
    ),
    'segments': (
        Row(14, None, None, None, 64, 4),
        Row(15, None, 'float32', None, 64, 4, registers=144),
        Row(16, None, None, None, 64, 4),
        Row(64, None, None, None, 64, 8, states_in_memory=True),
    ),
}
