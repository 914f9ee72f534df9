#!/usr/bin/env python
"""A training step on a CPU beside its own data workers and beside busy neighbours, by how threads wait for work.

    python tools/analysis_tools/benchmark_threads.py --markdown threads.md

OpenMP's threads wait for work by spinning, for milliseconds by default; on a busy machine mmvim's tools make them sleep
after some microseconds (mmvim/cli/threads.py). Each line is a training step of a small Vim on pictures that 0, 1 or 2
data workers make, alone or beside 1 or 2 processes that keep a core busy each; both ways of waiting take turns, and
the median of the steps counts, as does the longest. Nothing else should run on the machine.

It measures mmvim itself, from a checkout.
"""

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

WAYS = {'spinning': {}, 'sleeping': {'GOMP_SPINCOUNT': '1000'}}
TURNS = 3
SIDE = 192


def work(workers: int, seconds: float) -> None:
    """Train for some seconds and print the milliseconds of each step."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from mmvim.models import Vim

    class Pictures(Dataset):
        """Noise, blurred: work for a data worker."""

        def __len__(self) -> int:
            return 1 << 20

        def __getitem__(self, index: int) -> torch.Tensor:
            noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
            return torch.nn.functional.avg_pool2d(noise, 7, 1, 3)

    torch.manual_seed(0)
    model = Vim({'embed_dims': 96, 'depth': 6}, img_size=SIDE).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    times: list[float] = []
    loader = iter(DataLoader(Pictures(), batch_size=2, num_workers=workers))
    end, last = time.perf_counter() + seconds, time.perf_counter()
    while last < end or len(times) < 6:
        optimizer.zero_grad()
        model(next(loader))[-1].square().mean().backward()
        optimizer.step()
        now = time.perf_counter()
        times.append(1e3 * (now - last))
        last = now
    print(*(f'{ms:.3f}' for ms in times[3:]))


def measure(way: str, workers: int, busy: int, seconds: float) -> list[float]:
    """Return the milliseconds of the steps of one process, beside others."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(('OMP_', 'GOMP_'))}
    neighbours = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(busy)]
    try:
        command = [sys.executable, __file__, '--worker', str(workers), '--seconds', str(seconds)]
        done = subprocess.run(command, env={**env, **WAYS[way]}, capture_output=True, text=True, check=True)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    return [float(ms) for ms in done.stdout.split()]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=3.0, help='of each of the turns. Defaults to 3')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--worker', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        work(args.worker, args.seconds)
        return
    lines = ['| data workers | busy | spinning, ms | sleeping, ms | gain | spinning, longest | sleeping, longest |']
    lines.append('|-|-|-|-|-|-|-|')
    for workers, busy in itertools.product((0, 1, 2), (0, 1, 2)):
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(TURNS):
            for way in WAYS:
                found[way] += measure(way, workers, busy, args.seconds)
        medians = {way: statistics.median(times) for way, times in found.items()}
        cells = [
            workers,
            busy,
            *(f'{medians[way]:.0f}' for way in WAYS),
            f'{medians["spinning"] / medians["sleeping"]:.2f}x',
            *(f'{max(times):.0f}' for times in found.values()),
        ]
        lines.append(f'| {" | ".join(map(str, cells))} |')
        print(lines[-1], flush=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    print('\n'.join(lines[:2]), f'{cores} cores, Python {platform.python_version()}', sep='\n')
    if args.markdown:
        args.markdown.write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
