"""How a scan is cut: into slabs of rows and channels, and along L into chunks.

A row is one (path, batch element, group). All rows of a slab take their steps together: one step is one operation on
rows * N * C state values, C the slab's channels of a group. Too few of them and the time goes into starting operations,
too many and a chunk no longer fits the cache. Where a slab has too few, several segments of L take their steps
together, once to find the state each segment starts from and once more from there.

The cut depends on shapes, device type and thread count alone, never on a measurement, so results repeat bit for bit.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch


class Chunk(NamedTuple):
    """Steps `start` to `start + steps * segments - 1` of a path; step t of segment s is `start + s * steps + t`."""

    start: int
    steps: int
    segments: int

    @property
    def size(self) -> int:
        return self.steps * self.segments

    def position(self, length: int, backward: bool) -> int:
        """Lowest position of the chunk, for a slab that walks forward or backward."""
        return length - self.start - self.size if backward else self.start


class Slab(NamedTuple):
    """Ranges of paths, batch and channels of each group; and whether its paths are walked from L-1 to 0."""

    paths: slice
    batch: slice
    channels: slice
    backward: bool


@dataclass(frozen=True)
class Plan:
    """The slabs of a problem, and the chunks that each of them takes L in."""

    slabs: tuple[Slab, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_chunks(self) -> int:
        return len(self.chunks)


class PathsPlan(NamedTuple):
    """The cut where paths are taken one after the other.

    Attributes:
        channels: Ranges of the channels of each group that are taken one after the other.
        batch: Batch elements that are taken together.
        steps: Of a chunk.
        num_chunks: At most.
    """

    channels: tuple[slice, ...]
    batch: int
    steps: int
    num_chunks: int


@dataclass(frozen=True)
class Tuning:
    """Numbers of state values: of a step below which segments are joined; of a step at most; of a chunk; of a chunk
    where N is 1.
    """

    join: int
    step: int
    chunk: int
    single: int = 9 << 12


def tuning(device: torch.device, threads: int = 0) -> Tuning:
    """For a CPU, the chunk buffers stay in the second-level cache; for anything else, few large operations.

    Args:
        device: Where the scan runs.
        threads: Threads of PyTorch. Defaults to 0, those of the calling thread.
    """
    if device.type != 'cpu':
        return Tuning(join=1 << 18, step=1 << 22, chunk=1 << 25)
    threads = threads or torch.get_num_threads()
    # PyTorch gives a thread no less than 32768 values of an elementwise operation. For two threads it is not worth
    # their meeting at every step; whole chunks are shared in any case.
    if threads <= 2:
        return Tuning(join=12288, step=24576, chunk=(1 << 16) * (threads + 1))
    return Tuning(join=36864 * (threads - 1), step=36864 * threads, chunk=(1 << 17) * threads)


def make_plan(
    backward: list[bool], batch: int, groups: int, d_state: int, channels: int, length: int, tune: Tuning
) -> Plan:
    """Cut K paths x batch x groups rows of `channels` channels, and L steps.

    Args:
        backward: Whether each of the K paths is walked from L-1 to 0.
        batch, groups: Rows are K * batch * groups.
        d_state: N.
        channels: Channels of a group, D / G.
        length: L.
        tune: Sizes to aim at.
    """
    runs = _path_runs(backward)
    longest = max((_count(run) for run, _ in runs), default=1)
    column = max(1, groups * d_state)
    slab_channels = min(channels, max(1, tune.step // column))
    slab_paths = min(longest, max(1, tune.step // max(1, column * slab_channels)))
    slab_batch = min(batch, max(1, tune.step // max(1, column * slab_channels * slab_paths)))
    slabs = tuple(
        Slab(paths, b, c, walks_backward)
        for c in _even_slices(slice(0, channels, 1), slab_channels)
        for run, walks_backward in runs
        for paths in _even_slices(run, slab_paths)
        for b in _even_slices(slice(0, batch, 1), slab_batch)
    )
    step = max((column * _count(s.paths) * _count(s.batch) * _count(s.channels) for s in slabs), default=1)
    return Plan(slabs, _cut_length(length, step, tune))


def plan_paths_apart(batch: int, groups: int, channels: int, length: int, tune: Tuning) -> PathsPlan:
    """Cut for one path at a time and one state; arguments as of :func:`make_plan`."""
    slab_channels = min(channels, max(1, tune.single // (4 * groups)))
    row = max(1, groups * slab_channels)
    # Each chunk stores a boundary: rather some elements of the batch at once than few steps.
    slab_batch = min(max(1, batch), max(1, tune.single // (6 * row)))
    steps = _fitting(max(1, min(length, tune.single // (row * slab_batch))), length)
    return PathsPlan(tuple(_even_slices(slice(0, channels, 1), slab_channels)), slab_batch, steps, -(-length // steps))


def _path_runs(backward: list[bool]) -> list[tuple[slice, bool]]:
    """Paths that are walked in one direction, as slices; two of them where both directions are evenly spaced."""
    runs = []
    for direction in (False, True):
        paths = [k for k, b in enumerate(backward) if b == direction]
        steps = {b - a for a, b in pairwise(paths)}
        if not paths:
            continue
        if len(steps) <= 1:
            runs.append((slice(paths[0], paths[-1] + 1, steps.pop() if steps else 1), direction))
        else:
            runs.extend((slice(k, k + 1, 1), direction) for k in paths)
    return runs


def _cut_length(length: int, step: int, tune: Tuning) -> tuple[Chunk, ...]:
    if length == 0:
        return ()
    span = max(4, tune.chunk // step)
    span = -(-length // -(-length // span))
    segments = 1
    # Segments take each step twice: two of them would save nothing.
    if step * 3 <= tune.join:
        # A step and a segment cost one operation each, so about equally many of both are fewest.
        segments = min(-(-tune.join // step), int(span**0.5))
    steps = _fitting(-(-span // max(1, segments)), length)
    chunks, start = [], 0
    while start < length:
        fit = min(max(1, segments), (length - start) // steps)
        chunks.append(Chunk(start, steps, fit) if fit else Chunk(start, length - start, 1))
        start += chunks[-1].size
    return tuple(chunks)


def _fitting(steps: int, length: int) -> int:
    """The divisor of `length` nearest to `steps`, if there is one near: chunks of a single shape are set up once."""
    near = [n for n in range(max(1, steps * 3 // 4), steps * 5 // 4 + 1) if length % n == 0]
    return min(near, key=lambda n: abs(n - steps), default=steps)


def _even_slices(whole: slice, largest: int) -> list[slice]:
    """Cut a slice into as few of at most `largest` elements as possible, of about equal size."""
    total = _count(whole)
    if total == 0:
        return []
    pieces = -(-total // largest)
    size = -(-total // pieces)
    return [
        slice(whole.start + i * whole.step, min(whole.start + (i + size) * whole.step, whole.stop), whole.step)
        for i in range(0, total, size)
    ]


def _count(s: slice) -> int:
    return len(range(s.start, s.stop, s.step))
