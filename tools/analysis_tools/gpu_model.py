#!/usr/bin/env python
"""How full is a GPU at the shapes of vision models, and how long do the scans take? By the model of time, not measured.

    python tools/analysis_tools/gpu_model.py --markdown model.md
    python tools/analysis_tools/gpu_model.py --only VMamba --processors 108 --arch 80 --clock 1.41
    python tools/analysis_tools/gpu_model.py --limits

A line for each scan and pass, a column for each batch. A cell has the modelled microseconds and the warps that a
processor gets, 8 of them two for each of its schedulers, as "before → now" where they differ: cut by three constants,
as it was done first, and by the model (``mmvim/ops/selective_scan/triton/cut.py``, which says what the model is). The
time is that of the scan's own kernels in float16: over segments, their ends, and sums of shares; merging the outputs of
several paths is the same in both cases and left out.

At the end it says by how much the time for a picture rises at most from one of the batches to a larger one.

``--limits`` compares the times of the larger batches with the least that a GPU needs, the longer of two times:

- SFU: the fewest exponentials and reciprocals, of which one for 32 numbers takes 8 issue slots of one of four
  schedulers. For a step of a channel they are N decays and the exponential of softplus; backward one reciprocal more,
  for softplus, and an exponential and a reciprocal for a gate, once for all paths.
- HBM: the bytes of each tensor that the scan's own kernels read or write, once, in half precision: u and the gradient
  of the output (and the gate, y and the gate's gradient) for all paths, all else for each, with the states between
  chunks.

How many times the limit a pass takes is the sum of five parts: the instructions of its kernel, if each lane and
scheduler had work all the time; lanes of a block that have no channel; schedulers that have fewer warps than others or
wait; shares of sums that blocks leave and another kernel reads; and the ends of segments, with their launches.

No GPU is needed. It measures mmvim itself, from a checkout.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmvim.ops.selective_scan.triton.cut import (  # noqa: E402
    CHUNK,
    Cut,
    Gpu,
    Work,
    choose,
    clocks_of,
    clocks_of_shares,
    cost_of,
    model,
)

BATCHES = (1, 16, 32, 48, 64, 128)
PASSES = ('forward', 'backward')
LARGE = (64, 128)  # batches compared with the limits
H200_CLOCK = 1.755
H200_BANDWIDTH = 4.8  # TB/s
MOST_RISE = 1.13
# What cut a scan before: a path became segments of at least so many steps until a processor had so many programs, but
# three at least, or stayed whole; rows below the third number had blocks of 64 channels.
WARPS_WANTED, LEAST_SEGMENT, LEAST_WIDE = 8, 128, 384


class Scan(NamedTuple):
    """The scan of a layer.

    Attributes:
        name: Model, pixels of a square picture, and where in the model.
        dim: Channels, D.
        steps: Steps of a path, T.
        d_state: States, N.
        paths: Paths, K.
        windows: Parts of a picture that are scanned by themselves.
        gate: Whether the scan has a gate.
    """

    name: str
    dim: int
    steps: int
    d_state: int
    paths: int
    windows: int = 1
    gate: bool = False

    def work(self, batch: int) -> Work:
        """Return what there is to cut for a batch."""
        return Work(batch * self.windows * self.paths, 1, self.dim, self.steps, self.d_state)

    def widest(self, kernel: str, gpu: Gpu) -> int:
        """Return the most channels of a program by the table."""
        import torch

        from mmvim.ops.selective_scan.triton.blocks import blocks_for, fit_blocks

        blocks = blocks_for(kernel, self.d_state, self.steps, torch.float16, gpu.arch)
        whole = blocks.are_full(self.dim, self.steps)
        return fit_blocks(blocks, kernel, self.dim, self.dim, whole=whole).block_d


def scans() -> Iterator[Scan]:
    """Yield the scans of the families' models."""
    for pixels in (224, 512, 1024, 1248):
        for size, dim in (('T', 384), ('S', 768), ('B', 1536)):
            yield Scan(f'Vim-{size} {pixels}', dim, (pixels // 16) ** 2, 16, 2, gate=True)
    for pixels in (224, 512):
        yield Scan(f'PlainMamba-L1 {pixels}', 384, (pixels // 16) ** 2, 16, 4, gate=True)
        yield Scan(f'LocalVim-T {pixels}, windows of 7', 384, (-(-pixels // 112) * 7) ** 2, 16, 4, gate=True)
    for pixels in (224, 512, 1024):
        for model_name, dim, d_state in (('VMamba-T', 96, 1), ('VMamba-B', 256, 1), ('VMamba-T v0', 192, 16)):
            for stage in range(4):
                side = pixels // (4 << stage)
                yield Scan(f'{model_name} {pixels}, stage {stage + 1}', dim << stage, side * side, d_state, 4)
    for stage in range(2):
        side = 224 // (4 << stage)
        yield Scan(f'EfficientVMamba-T 224, stage {stage + 1}', 96 << stage, (side // 2) ** 2, 16, 4)
    for stage in range(4):
        side = 224 // (4 << stage)
        yield Scan(f'MSVMamba-T 224, stage {stage + 1}', 192 << stage, side * side, 1, 1)
        yield Scan(f'MSVMamba-T 224, stage {stage + 1}, halved', 192 << stage, max(side // 2, 1) ** 2, 1, 3)
    for size, dim in (('T', 160), ('S', 192), ('B', 256), ('L', 392)):
        yield Scan(f'MambaVision-{size} 224, level 3', dim, 196, 8, 1)
        yield Scan(f'MambaVision-{size} 224, level 4', 2 * dim, 49, 8, 1)
        yield Scan(f'MambaVision-{size} 512, level 3', dim, 1024, 8, 1)
        yield Scan(f'MambaVision-{size} 1248, level 3, windows of 14', dim, 196, 8, 1, 36)


def cut_before(kernel: str, work: Work, widest: int, gpu: Gpu) -> Cut:
    """Return the cut by three constants, with its modelled time."""
    width = min(widest, 64) if work.steps < LEAST_WIDE else widest
    segments = min(WARPS_WANTED * gpu.processors // (work.rows * work.blocks(width)), work.steps // LEAST_SEGMENT)
    steps = work.steps
    if segments < 3:
        segments = 1
    else:
        each = -(-steps // segments)
        steps = -(-each // CHUNK) * CHUNK
        segments = -(-work.steps // steps)
    return Cut(width, segments, steps, model(kernel, work, width, segments, steps, gpu))


def cut_now(kernel: str, scan: Scan, batch: int, gpu: Gpu) -> Cut:
    """Return the cut by the model."""
    return choose(kernel, scan.work(batch), scan.widest(kernel, gpu), gpu)


def warps(work: Work, cut: Cut, gpu: Gpu) -> float:
    """Return the warps for each processor."""
    return work.rows * cut.segments * work.blocks(cut.width) / gpu.processors


def rise(scan: Scan, kernel: str, gpu: Gpu, batches: Sequence[int] = BATCHES) -> float:
    """Return the largest ratio of the time for a picture at a batch to that at a smaller one."""
    least, worst = float('inf'), 0.0
    for batch in batches:
        clocks = cut_now(kernel, scan, batch, gpu).clocks / batch
        worst, least = max(worst, clocks / least), min(least, clocks)
    return worst


def cell(kernel: str, scan: Scan, batch: int, gpu: Gpu, clock: float) -> str:
    """Return the text of a cell."""
    work = scan.work(batch)
    old, new = cut_before(kernel, work, scan.widest(kernel, gpu), gpu), cut_now(kernel, scan, batch, gpu)

    def both(before: float, now: float, digits: int) -> str:
        texts = [f'{before:.{digits}f}', f'{now:.{digits}f}']
        return texts[1] if texts[0] == texts[1] else ' → '.join(texts)

    times = both(old.clocks / clock / 1e3, new.clocks / clock / 1e3, 0)
    return f'{times} us; {both(warps(work, old, gpu), warps(work, new, gpu), 1)}'


def table(found: Sequence[Scan], gpu: Gpu, clock: float) -> str:
    """Return a Markdown table."""
    header = ['scan', 'pass', *(f'batch {batch}' for batch in BATCHES)]
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '-|' * len(header)]
    for scan in found:
        for kernel in PASSES:
            cells = [cell(kernel, scan, batch, gpu, clock) for batch in BATCHES]
            lines.append('| ' + ' | '.join([scan.name, kernel, *cells]) + ' |')
    return '\n'.join(lines)


def limits(kernel: str, scan: Scan, batch: int, gpu: Gpu, clock: float, bandwidth: float) -> dict[str, float]:
    """Return the least microseconds of a pass by what they are spent on, 'SFU' and 'HBM'; see the module."""
    work = scan.work(batch)
    numbers = work.rows * work.steps * scan.dim
    for_all_paths = 1 / scan.paths
    states = 4 * scan.d_state / CHUNK  # float32
    projections = 2 * 2 * scan.d_state / scan.dim  # B and C
    if kernel == 'forward':
        special = scan.d_state + 1.0
        moved = 2 * (for_all_paths + 2) + states + projections  # u; delta, the output
    else:
        special = scan.d_state + 2 + 2 * scan.gate * for_all_paths
        # u, the gradient of the output and three more of a gate; delta, the gradients of u and delta
        moved = 2 * ((2 + 3 * scan.gate) * for_all_paths + 3) + states + 2 * projections
    slots = 8 * special * numbers / 32
    return {'SFU': slots / (4 * gpu.processors * clock * 1e3), 'HBM': moved * numbers / (bandwidth * 1e6)}


def parts(kernel: str, scan: Scan, batch: int, gpu: Gpu) -> dict[str, float]:
    """Return what the modelled time of a pass consists of, in clocks; see the module."""
    work, cut, cost = scan.work(batch), cut_now(kernel, scan, batch, gpu), cost_of(kernel, scan.d_state)
    taken = work.blocks(cut.width) * cut.width / scan.dim  # lanes for each channel
    busy = cost.of_warp(cut.width) / cut.width * work.rows * work.steps * scan.dim / (4 * gpu.processors)
    own = clocks_of(cost, work.rows * cut.segments * work.blocks(cut.width), cut.width, cut.steps, gpu)
    shares = clocks_of_shares(work, cut.width, gpu) if kernel == 'backward' else 0.0
    return {
        'instructions': busy,
        'lanes': busy * (taken - 1),
        'idle': own - busy * taken,
        'sums': shares,
        'ends': cut.clocks - own - shares,
    }


def table_of_limits(found: Sequence[Scan], gpu: Gpu, clock: float, bandwidth: float) -> str:
    """Return a Markdown table of how many times its limit each pass takes, and of what these times consist."""
    header = ['scan', 'pass', 'batch', 'us', 'limit, us', 'times', *parts(PASSES[0], found[0], 1, gpu)]
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '-|' * len(header)]
    for scan in found:
        for kernel in PASSES:
            for batch in LARGE:
                least = limits(kernel, scan, batch, gpu, clock, bandwidth)
                bound = max(least, key=least.__getitem__)
                spent = {name: clocks / clock / 1e3 for name, clocks in parts(kernel, scan, batch, gpu).items()}
                times = [us / least[bound] for us in (sum(spent.values()), *spent.values())]
                cells = [scan.name, kernel, str(batch), f'{sum(spent.values()):.0f}', f'{least[bound]:.1f} {bound}']
                lines.append('| ' + ' | '.join([*cells, *(f'{x:.2f}' for x in times)]) + ' |')
    return '\n'.join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', help='only scans whose name contains this')
    parser.add_argument('--processors', type=int, default=132, help='of the GPU. Defaults to 132, H100 and H200')
    parser.add_argument('--arch', type=int, default=90, help='compute capability. Defaults to 90, 9.0')
    parser.add_argument('--clock', type=float, default=H200_CLOCK, help=f'in GHz. Defaults to {H200_CLOCK}')
    parser.add_argument('--limits', action='store_true', help='compare with the least times, see above')
    parser.add_argument(
        '--bandwidth', type=float, default=H200_BANDWIDTH, help=f'in TB/s. Defaults to {H200_BANDWIDTH}, H200'
    )
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    args = parser.parse_args(argv)
    if args.processors < 1 or args.clock <= 0 or args.bandwidth <= 0:
        parser.error('--processors must be at least 1, --clock and --bandwidth positive')
    if not any(args.only in scan.name for scan in scans()):
        parser.error(f'--only {args.only!r} is in the name of no scan, such as {next(scans()).name!r}')
    return args


def main(argv: list[str] | None = None) -> None:
    """Compute and write."""
    args = parse_args(argv)
    gpu = Gpu(args.processors, args.arch)
    found = [scan for scan in scans() if args.only in scan.name]
    if args.limits:
        text = table_of_limits(found, gpu, args.clock, args.bandwidth)
    else:
        text = table(found, gpu, args.clock)
        worst = max((rise(scan, kernel, gpu), scan.name, kernel) for scan in found for kernel in PASSES)
        text += f'\n\nLargest rise of the time for a picture with the batch: {worst[0]:.2f} times'
        text += f' ({worst[1]}, {worst[2]}).'
    print(text)
    if args.markdown:
        args.markdown.write_text(text + '\n', 'utf-8')


if __name__ == '__main__':
    main()
