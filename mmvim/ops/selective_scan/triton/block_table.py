"""Block sizes by kernel, number of states, length, dtype and architecture; `blocks.py` reads the table.

A row holds for up to `d_state` states, up to `length` steps, a dtype ('half', 'float32') and an architecture (86:
compute capability 8.6 alone; 80: all of 8.x); None is any. Of the rows that hold, the first is taken. `warps` is 1
throughout: a sum over channels then never leaves a warp.

No clock has had a part in the sizes yet; what the compiler makes of the kernels has (tests/test_ops/triton_resources.py
compiles them without a GPU). "Work" below is instructions for a step of 32 channels, counted in the machine code of
sm_90, float16 unless said otherwise, and "room" is how many warps the registers of a processor hold:

- forward, N 1: blocks of 64 channels, 4 steps: work 57, room 28; 8 steps: the same work, less room; 128 channels, 4
  steps: work 45, room 21, with 42 KB of loads under way a processor, where 4.8 TB/s and 0.7 us of latency ask for 25.
  Hence 128 in half precision; in float32 (work 43, room 16) 64 channels stay: its bytes take twice as long.
- forward, N 8: 128 channels would lower the work from 110 to 89 and the room from 16 to 12; N 16: from 170 to 138, and
  from 12 to 8. It stays at 64, for want of a clock to tell which counts more.
- forward, more than 16 states: registers do not hold them; they wait in memory (`forward.py`), 14 warps have room,
  12 up to 31 states.
- backward: 128 channels, 2 steps: work 626 at N 16 against 804 with 64 channels, 4 steps, for a sum over lanes then has
  twice the channels; room 8 against 9. The partial sums of dB and dC, too, are half as many bytes.
- more than 16 states, segments: 8 steps, the states' reads and writes are shared by more steps at 16 warps.
- `registers`: left alone the assembler aims at so many warps that it spills some bytes (forward: to 96 registers with
  N 8 on sm_90, to 128 with N 16 on sm_100 and N 64 on sm_80; backward: to 168 with N 1 on sm_90 and N 16 on sm_100, in
  float32; segments: to 96 with N 15 on sm_80 in float32). The bounds are such that nothing recorded spills: forward,
  the 144 of 32 states and more would be too few for 20 on sm_90 and 24 on sm_80.
- Below 384 steps a row is not cut into segments (plan.LEAST_SEGMENT), so that programs are few: narrow blocks make more
  of them.

All NVIDIA architectures from sm_80 on have the same 65536 registers a processor, and the kernels use hardly any shared
memory; what differs is how the assembler spends the registers, and how many programs a processor takes at most. So one
row of an architecture's own is all that the machine code gives reason for:

- sm_86 takes no more than 16 programs. Forward, N 1 in float32: 64 channels leave registers for 18 warps and more, 128
  channels, of at most 128 registers where D is a multiple of 16, for just these 16. The room is thus the same and the
  work less.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """See above; block_d: channels of a program, steps: steps of a tile.

    parked: States wait in memory rather than in registers ('backward': always). registers: Bound on the registers of a
    thread, None for the assembler's own; it uses what it is given.
    """

    d_state: int
    length: int | None
    dtype: str | None
    arch: int | None
    block_d: int
    steps: int
    warps: int = 1
    parked: bool = False
    registers: int | None = None


TABLE = {
    'forward': (
        Row(1, 383, None, None, 64, 4),
        Row(1, None, 'half', None, 128, 4),
        Row(1, None, 'float32', 86, 128, 4),
        Row(4, None, None, None, 64, 4),
        Row(8, None, 'half', None, 64, 4, registers=128),
        Row(8, None, None, None, 64, 4, registers=136),
        Row(16, None, None, None, 64, 4, registers=168),
        Row(31, None, None, None, 64, 4, parked=True, registers=160),
        Row(64, None, None, None, 64, 4, parked=True, registers=144),
    ),
    'backward': (
        Row(1, None, 'float32', None, 64, 4, registers=192),
        Row(64, 383, None, None, 64, 4, registers=255),
        Row(1, None, 'half', None, 128, 2),
        Row(64, None, 'half', None, 128, 2, registers=255),
        Row(64, None, None, None, 64, 4, registers=255),
    ),
    'segments': (
        Row(14, None, None, None, 64, 4),
        Row(15, None, 'float32', None, 64, 4, registers=144),
        Row(16, None, None, None, 64, 4),
        Row(64, None, None, None, 64, 8, parked=True),
    ),
}
