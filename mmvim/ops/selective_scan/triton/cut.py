"""How a scan is cut into programs: the number of segments and the channels of a program, from a model of their time.

A kernel has a program of one warp for each (batch element, path, segment, block of channels). Few programs leave
processors idle; many cost what segments and narrow blocks cost: every state of a segment is computed once more, and
what a step costs a warp whatever its width is shared by fewer channels. The model weighs both, in clocks of a
processor, whose four schedulers start an instruction each clock:

    time = steps of a segment * max(warps of a scheduler * instructions, waves * (instructions + wait)) + ends

- The warps of a scheduler are whole: a fifth warp of a processor makes one of its schedulers work twice as long.
- A wave is as many programs as find room at once.
- ``instructions`` is what a warp issues for a step, ``wait`` how long it then waits for its operands, unless others
  fill the time.
- ``ends``, where there are segments: the kernel that finds the end of each by the same formula, the one that chains
  them, and two more launches. Backward, the shares of the sums over channels that every block leaves and that another
  kernel reads.

The instructions and registers are counted in machine code of sm_90 (``COSTS`` says how), the waits are estimates, and
no time has been measured yet. What the model is for is the choice between cuts of one scan, in which most of its errors
cancel. It knows shapes and properties of the device only, so a call is cut the same way each time.

``tools/analysis_tools/gpu_model.py`` prints what it chooses and expects for the shapes of vision models.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from mmvim.ops.selective_scan.triton.blocks import CHUNK

WIDTHS = (32, 64, 128)
LAUNCH = 2600  # clocks that one more launch takes on the GPU: 1.5 us
CHAINED = 70  # clocks that the kernel that chains segments takes for each: a load, an exponential and a store
BYTES = 16  # that a processor moves to or from memory in a clock; from 13 (A100) to 21 (H200)
REGISTERS = 65536  # of a processor, from sm_70 on
# Most programs of a processor by architecture; those not listed take as many as the nearest older one. From the table
# "Compute Capabilities" of NVIDIA's CUDA programming guide.
MOST_PROGRAMS = {70: 32, 75: 16, 80: 32, 86: 16, 89: 24, 90: 32, 100: 32, 120: 24}


class Gpu(NamedTuple):
    """What the model knows of a device.

    Attributes:
        processors: Streaming multiprocessors.
        arch: Compute capability, 90 for 9.0.
    """

    processors: int
    arch: int = 90

    @property
    def most_programs(self) -> int:
        """Most programs that a processor takes at once, whatever their size."""
        older = [arch for arch in MOST_PROGRAMS if arch <= self.arch]
        return MOST_PROGRAMS[max(older, default=min(MOST_PROGRAMS))]


class Work(NamedTuple):
    """What there is to cut.

    Attributes:
        rows: Batch elements times paths.
        groups: Groups of channels that share B and C.
        group_dim: Channels of a group.
        steps: Steps of a path, T.
        d_state: States, N.
    """

    rows: int
    groups: int
    group_dim: int
    steps: int
    d_state: int

    def blocks(self, width: int) -> int:
        """Return how many blocks of so many channels there are, over all groups."""
        return self.groups * -(-self.group_dim // width)


class Cut(NamedTuple):
    """A way to cut a scan.

    Attributes:
        width: Channels of a program.
        segments: Segments of a path.
        steps: Steps of a segment: all, or a whole number of chunks.
        clocks: Modelled time.
    """

    width: int
    segments: int
    steps: int
    clocks: float


class Cost(NamedTuple):
    """What a step costs a warp of one kernel, by the channels of a program as in ``WIDTHS``.

    Attributes:
        d_state: States, N.
        instructions: That a warp issues for a step of 32 channels.
        registers: Of a thread.
        wait: Clocks that a warp waits in each step if nothing else runs on its scheduler.
    """

    d_state: int
    instructions: tuple[float, float, float]
    registers: tuple[int, int, int]
    wait: float

    def of_warp(self, width: int) -> float:
        """Return the instructions that a warp of so many channels issues for a step."""
        return self.instructions[WIDTHS.index(width)] * width / 32

    def room(self, width: int, gpu: Gpu) -> int:
        """Return how many programs find room on a processor at once."""
        registers = self.registers[WIDTHS.index(width)]
        return min(gpu.most_programs, REGISTERS // (32 * -(-registers // 8) * 8))


# Counted for float16 on sm_90, with tiles of 4 steps (segments of more than 16 states: 8), in the loops over steps:
# 'vim' of tests/test_ops/triton_resources.py, without a gate in the kernel; backward with one state 'cross', for no
# family with a gate has one. More than 16 states wait in memory. Not counted, but in proportion to what was: forward
# and segments, 24 states in blocks other than 64, and 64 states; backward, 24 and 64 states. The waits are what the
# loads, exponentials and sums of a step take one after the other, where they do not overlap: estimates.
COSTS: dict[str, tuple[Cost, ...]] = {
    'forward': (
        Cost(1, (55, 42, 33), (64, 58, 80), 60),
        Cost(8, (123, 91, 77), (116, 125, 128), 120),
        Cost(16, (202, 151, 135), (161, 162, 247), 120),
        Cost(24, (489, 324, 324), (159, 160, 160), 300),
        Cost(64, (1170, 755, 755), (136, 136, 136), 800),
    ),
    'backward': (
        Cost(1, (135, 97, 79), (128, 150, 192), 120),
        Cost(8, (405, 293, 237), (222, 254, 255), 500),
        Cost(16, (680, 490, 405), (242, 255, 255), 1000),
        Cost(24, (1083, 720, 590), (242, 255, 255), 1500),
        Cost(64, (2810, 1900, 1500), (242, 255, 255), 4000),
    ),
    'segments': (
        Cost(1, (37, 29, 26), (43, 52, 61), 48),
        Cost(8, (79, 64, 57), (64, 68, 128), 100),
        Cost(16, (127, 104, 93), (64, 96, 176), 150),
        Cost(24, (267, 200, 200), (80, 96, 96), 200),
        Cost(64, (670, 500, 500), (80, 96, 96), 500),
    ),
    'segments, adjoint': (
        Cost(1, (49, 38, 35), (48, 60, 64), 48),
        Cost(8, (91, 74, 65), (64, 93, 163), 100),
        Cost(16, (139, 113, 101), (86, 128, 255), 150),
        Cost(24, (291, 206, 206), (80, 96, 96), 200),
        Cost(64, (730, 517, 517), (80, 96, 96), 500),
    ),
}


@functools.lru_cache(maxsize=256)
def cost_of(kernel: str, d_state: int) -> Cost:
    """Return a kernel's cost, between the numbers of states that have been counted by interpolation.

    Registers are those of the next more states: their number grows in jumps.

    Args:
        kernel: A key of ``COSTS``.
        d_state: States, N.
    """
    rows = COSTS[kernel]
    above = next((i for i, row in enumerate(rows) if row.d_state >= d_state), len(rows) - 1)
    high, low = rows[above], rows[max(above - 1, 0)]
    if high is low:
        return high
    share = min((d_state - low.d_state) / (high.d_state - low.d_state), 1.0)
    narrow, middle, wide = (a + share * (b - a) for a, b in zip(low.instructions, high.instructions, strict=True))
    wait = low.wait + share * (high.wait - low.wait)
    return Cost(d_state, (narrow, middle, wide), high.registers, wait)


def clocks_of(cost: Cost, programs: int, width: int, steps: int, gpu: Gpu) -> float:
    """Return the modelled time of a kernel.

    Args:
        cost: Of the kernel.
        programs: Their number.
        width: Channels of each.
        steps: Steps of each.
        gpu: The device.

    Examples:
        >>> from mmvim.ops.selective_scan.triton.cut import Cost, Gpu, clocks_of
        >>> cost, gpu = Cost(1, (40, 30, 25), (64, 64, 64), 100), Gpu(processors=10)
        >>> clocks_of(cost, programs=40, width=32, steps=10, gpu=gpu)  # a warp for each scheduler: it waits
        1400.0
        >>> clocks_of(cost, programs=160, width=32, steps=10, gpu=gpu)  # four times the work for a little more
        1600.0
    """
    instructions, warps = cost.of_warp(width), -(-programs // gpu.processors)
    waves = -(-warps // cost.room(width, gpu))
    return steps * max(-(-warps // 4) * instructions, waves * (instructions + cost.wait))


def clocks_of_ends(work: Work, segments: int, steps: int, adjoint: bool, gpu: Gpu) -> tuple[float, int]:
    """Return what segments cost beside the kernel that runs over them, and the width of the kernel of their ends."""
    cost = cost_of('segments, adjoint' if adjoint else 'segments', work.d_state)
    found = []
    for width in widths_of(work, 64):
        programs = work.rows * (segments - 1) * work.blocks(width)
        found.append((clocks_of(cost, programs, width, steps, gpu), width))
    ends, width = min(found)
    # The chain reads and writes a state for each segment; the kernel over segments reads it again.
    states = work.rows * segments * work.d_state * work.groups * work.group_dim
    moved = 4 * 4 * states / (BYTES * gpu.processors)
    return ends + moved + CHAINED * segments + 2 * LAUNCH, width


def clocks_of_shares(work: Work, width: int, gpu: Gpu) -> float:
    """Return what the shares of dB and dC cost: float32, written by each block of channels and read once."""
    return 2 * 2 * 4 * work.rows * work.steps * work.blocks(width) * work.d_state / (BYTES * gpu.processors)


def model(kernel: str, work: Work, width: int, segments: int, steps: int, gpu: Gpu) -> float:
    """Return the modelled time of a pass that is cut in one way, in clocks.

    Args:
        kernel: 'forward' or 'backward'.
        work: What there is to cut.
        width: Channels of a program.
        segments: Segments of a path.
        steps: Steps of each.
        gpu: The device.
    """
    cost = cost_of(kernel, work.d_state)
    clocks = clocks_of(cost, work.rows * segments * work.blocks(width), width, steps, gpu)
    if kernel == 'backward':
        clocks += clocks_of_shares(work, width, gpu)
    if segments > 1:
        clocks += clocks_of_ends(work, segments, steps, kernel == 'backward', gpu)[0]
    return clocks


def widths_of(work: Work, widest: int) -> list[int]:
    """Return the widths that a program may have: at most the widest, and the least that holds all of a group."""
    return [w for w in WIDTHS if w <= widest and (w == WIDTHS[0] or w // 2 < work.group_dim)]


def cuts_of(steps: int) -> list[tuple[int, int]]:
    """Return the ways to cut so many steps: segments, and steps of each.

    Examples:
        >>> from mmvim.ops.selective_scan.triton.cut import cuts_of
        >>> cuts_of(49)
        [(1, 49), (2, 32), (4, 16)]
    """
    chunks, found = -(-steps // CHUNK), [(1, steps)]
    for segments in range(2, chunks + 1):
        each = -(-chunks // segments)
        if -(-chunks // each) == segments:
            found.append((segments, each * CHUNK))
    return found


@functools.lru_cache(maxsize=4096)
def choose(kernel: str, work: Work, widest: int, gpu: Gpu) -> Cut:
    """Return the cut that the model takes to be the fastest; of equals the one with fewer segments, then the widest.

    Args:
        kernel: 'forward' or 'backward'.
        work: What there is to cut.
        widest: Most channels of a program.
        gpu: The device.

    Examples:
        >>> from mmvim.ops.selective_scan.triton.cut import Gpu, Work, choose
        >>> one = Work(rows=2, groups=1, group_dim=384, steps=4096, d_state=16)  # Vim-T, 1024 pixels, one picture
        >>> many = one._replace(rows=256)
        >>> choose('forward', one, 64, Gpu(132)).segments > choose('forward', many, 64, Gpu(132)).segments
        True
    """
    found = [
        Cut(width, segments, steps, model(kernel, work, width, segments, steps, gpu))
        for segments, steps in cuts_of(work.steps)
        for width in reversed(widths_of(work, widest))
    ]
    return min(found, key=lambda cut: cut.clocks)
