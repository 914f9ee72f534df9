"""How a scan is cut: into slabs of rows and channels, and along L into chunks.

A row is one (path, batch element, group). All rows of a slab take their steps together: one step is one operation on
`step` = rows * N * D state values. Too few of them and the time goes into starting operations, too many and a chunk no
longer fits the cache. Where a slab has too few, several segments of L take their steps together and a short pass over
the segments repairs the states (`segments` > 1).

The cut depends on shapes, device type and thread count alone, never on a measurement, so results repeat bit for bit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Chunk(NamedTuple):
    """Steps ``start`` to ``start + steps * segments - 1``; step t of segment s is ``start + s * steps + t``."""

    start: int
    steps: int
    segments: int


class Slab(NamedTuple):
    """Ranges of paths, batch and channels of each group."""

    paths: slice
    batch: slice
    channels: slice


@dataclass(frozen=True)
class Tuning:
    """State values of a step at which segments are joined up to `join`, of a step at most, and of a chunk."""

    join: int
    step: int
    chunk: int


def tuning(device: torch.device) -> Tuning:
    """For a CPU, two or three chunk buffers stay in the second-level cache; for anything else, few large operations."""
    if device.type != 'cpu':
        return Tuning(join=1 << 18, step=1 << 22, chunk=1 << 25)
    threads = torch.get_num_threads()
    if threads == 1:
        return Tuning(join=6144, step=24576, chunk=1 << 17)
    # PyTorch gives a thread no less than 32768 values of an elementwise operation.
    return Tuning(join=36864 * (threads - 1), step=36864 * threads, chunk=(1 << 17) * threads)


@dataclass(frozen=True)
class Plan:
    """The slabs of a problem, and the chunks that each of them takes L in."""

    slabs: tuple[Slab, ...]
    chunks: tuple[Chunk, ...]


def make_plan(paths: int, batch: int, groups: int, d_state: int, channels: int, length: int,
              tune: Tuning) -> Plan:
    """Cut K paths x batch x groups rows of `channels` channels and L steps.

    Args:
        paths, batch, groups: Rows are their product.
        d_state: N.
        channels: Channels of a group, D / G.
        length: L.
        tune: Sizes to aim at.
    """
    row = groups * d_state * channels
    per_slab_channels = channels
    if row > tune.step:
        per_slab_channels = max(1, tune.step // (groups * d_state))
    row = groups * d_state * per_slab_channels
    per_slab_paths = min(paths, max(1, tune.step // row))
    per_slab_batch = min(batch, max(1, tune.step // (row * per_slab_paths)))
    slabs = tuple(Slab(k, b, d)
                  for d in _even_slices(channels, per_slab_channels)
                  for k in _even_slices(paths, per_slab_paths)
                  for b in _even_slices(batch, per_slab_batch))
    first = slabs[0] if slabs else Slab(slice(0, 0), slice(0, 0), slice(0, 0))
    step = max(1, groups * d_state * _size(first.channels) * _size(first.paths) * _size(first.batch))
    return Plan(slabs, _cut_length(length, step, tune))


def _cut_length(length: int, step: int, tune: Tuning) -> tuple[Chunk, ...]:
    if length == 0:
        return ()
    span = max(4, tune.chunk // step)
    span = -(-length // -(-length // span))
    segments = 1
    if step * 2 <= tune.join:
        # Steps and segments cost one operation each, so about equally many of both are fewest.
        segments = max(1, min(tune.join // step, int(span ** 0.5)))
    steps = -(-span // segments)
    chunks, start = [], 0
    while start < length:
        left = length - start
        fit = min(segments, left // steps)
        chunk = Chunk(start, steps, fit) if fit else Chunk(start, left, 1)
        chunks.append(chunk)
        start += chunk.steps * chunk.segments
    return tuple(chunks)


def _even_slices(total: int, largest: int) -> list[slice]:
    """Cut `total` into as few slices of at most `largest` as possible, of about equal size."""
    if total == 0:
        return []
    pieces = -(-total // largest)
    size = -(-total // pieces)
    return [slice(i, min(i + size, total)) for i in range(0, total, size)]


def _size(s: slice) -> int:
    return s.stop - s.start
