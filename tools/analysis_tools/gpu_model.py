#!/usr/bin/env python
"""How full is a GPU at the shapes of vision models, and how long do the scans take? By the model of time, not measured.

    python tools/analysis_tools/gpu_model.py --markdown model.md
    python tools/analysis_tools/gpu_model.py --only VMamba --processors 108 --arch 80 --clock 1.41

A line for each scan and pass, a column for each batch. A cell has the modelled microseconds and the warps that a
processor gets, 8 of them two for each of its schedulers, as "before → now" where they differ: cut by three constants,
as it was done first, and by the model (``mmvim/ops/selective_scan/triton/cut.py``, which says what the model is). The
time is that of the scan's own kernels in float16: over segments, their ends, and sums of shares; merging the outputs of
several paths is the same in both cases and left out.

At the end it says by how much the time for a picture rises at most from one of the batches to a larger one.

No GPU is needed. It measures mmvim itself, from a checkout.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmvim.ops.selective_scan.triton.cut import CHUNK, Cut, Gpu, Work, choose, model  # noqa: E402

BATCHES = (1, 16, 32, 48, 64, 128)
PASSES = ('forward', 'backward')
H200_CLOCK = 1.755
MOST_RISE = 1.16
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
    """

    name: str
    dim: int
    steps: int
    d_state: int
    paths: int
    windows: int = 1

    def work(self, batch: int) -> Work:
        """Return what there is to cut for a batch."""
        return Work(batch * self.windows * self.paths, 1, self.dim, self.steps, self.d_state)

    def widest(self, kernel: str, gpu: Gpu) -> int:
        """Return the most channels of a program by the table."""
        import torch

        from mmvim.ops.selective_scan.triton.blocks import blocks_for, fit_blocks

        blocks = blocks_for(kernel, self.d_state, self.steps, torch.float16, gpu.arch)
        return fit_blocks(blocks, kernel, self.dim, self.dim).block_d


def scans() -> Iterator[Scan]:
    """Yield the scans of the families' models."""
    for pixels in (224, 512, 1024, 1248):
        for size, dim in (('T', 384), ('S', 768), ('B', 1536)):
            yield Scan(f'Vim-{size} {pixels}', dim, (pixels // 16) ** 2, 16, 2)
    for pixels in (224, 512):
        yield Scan(f'PlainMamba-L1 {pixels}', 384, (pixels // 16) ** 2, 16, 4)
        yield Scan(f'LocalVim-T {pixels}, windows of 7', 384, (-(-pixels // 112) * 7) ** 2, 16, 4)
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', help='only scans whose name contains this')
    parser.add_argument('--processors', type=int, default=132, help='of the GPU. Defaults to 132, H100 and H200')
    parser.add_argument('--arch', type=int, default=90, help='compute capability. Defaults to 90, 9.0')
    parser.add_argument('--clock', type=float, default=H200_CLOCK, help=f'in GHz. Defaults to {H200_CLOCK}')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    args = parser.parse_args(argv)
    if args.processors < 1 or args.clock <= 0:
        parser.error('--processors must be at least 1, and --clock positive')
    if not any(args.only in scan.name for scan in scans()):
        parser.error(f'--only {args.only!r} is in the name of no scan, such as {next(scans()).name!r}')
    return args


def main(argv: list[str] | None = None) -> None:
    """Compute and write."""
    args = parse_args(argv)
    gpu = Gpu(args.processors, args.arch)
    found = [scan for scan in scans() if args.only in scan.name]
    text = table(found, gpu, args.clock)
    worst = max((rise(scan, kernel, gpu), scan.name, kernel) for scan in found for kernel in PASSES)
    text += f'\n\nLargest rise of the time for a picture with the batch: {worst[0]:.2f} times ({worst[1]}, {worst[2]}).'
    print(text)
    if args.markdown:
        args.markdown.write_text(text + '\n', 'utf-8')


if __name__ == '__main__':
    main()
