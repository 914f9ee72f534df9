#!/usr/bin/env python
"""Time and memory of the selective scan: ours, its peers and the limit, at the shapes of vision models, in one run.

    python tools/analysis_tools/benchmark_scan.py --threads 1 --markdown table.md

Implementations, each fed the same numbers in the memory order that suits it:
    ours:NAME   mmvim.ops.selective_scan_paths with that backend (all that can run here but the reference)
    pscan       mambapy's parallel scan (pip install --no-deps mambapy==1.2.0), each path as a permuted copy that is
                put back and added
    loop        the textbook: one step after the other under autograd (forward alone above L 256: its backward is
                quadratic in L)
    limit       the longer of two times, forward only: torch.exp on as many numbers as there are (path, batch, channel,
                token, state), a block in cache at a time; and a copy of as many bytes as the scan must read and write.
                In brackets with softplus: an exponential and a logarithm, counted as two more torch.exp, for each
                (path, batch, channel, token)

With `--device cuda` shapes, implementations and limits are those of benchmark_scan_cuda.py, which tells them.

Each measurement runs in a process of its own: the peak of resident memory during one call less what was resident
before; then those of a shape take turns with repeated calls, freed memory kept, so that whatever else the machine does
meets all alike, and the shortest time of each counts. Outputs are compared with ours:torch before anything is timed.
Nothing else should run on the machine.

It measures mmvim itself, from a checkout.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmark_scan_tables import HEADER, LIMITS, by_shape, row
from scan_implementations import SHAPES, Shape, implementation, make_inputs
from taking_turns import ROOT, Worker, WorkerEnded, serve

sys.path.insert(0, str(ROOT))

LOOP_BACKWARD_LIMIT = 256
TURNS = 5
ENOUGH = 20.0  # seconds of one measurement, however few its turns were


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch. Defaults to 1')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'], help='Defaults to cpu')
    parser.add_argument('--shapes', default='', help='only shapes whose name contains this')
    parser.add_argument('--implementations', default='', help='only these, separated by commas')
    parser.add_argument(
        '--seconds', type=float, default=1.0, help=f'least time of repeated calls, in {TURNS} turns. Defaults to 1'
    )
    parser.add_argument('--quick', action='store_true', help='the three smallest shapes, briefly')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--json', type=Path, help='write every number here')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == 'cuda':
        import torch

        if not torch.cuda.is_available():
            parser.error('--device cuda: PyTorch finds no CUDA device')
    return args


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'{field} is not in /proc/self/status')


def set_allocator(at_once: bool) -> None:
    """Return freed memory to the system at once, so that the peak is what is in use; or keep all of it.

    By default glibc fetches anything larger than 32 MiB anew each time, page by page, which would double pscan's time.

    Args:
        at_once: Whether to return it; else even the largest tensors' memory is kept.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL('libc.so.6')
        mmap_threshold, mmaps, trim_threshold = -3, -4, -1  # the numbers of mallopt's parameters
        libc.mallopt(mmap_threshold, 1 << 16)
        libc.mallopt(mmaps, 1 << 16 if at_once else 0)
        libc.mallopt(trim_threshold, 1 << 16 if at_once else (1 << 31) - 1)
        libc.malloc_trim(0)


def work(job: dict) -> None:
    """Measure in this process: for 'memory' the bytes of a call, for 'time' the seconds of a turn (shortest, sum)."""
    import torch

    torch.set_num_threads(job['threads'])
    shape = Shape(**{key: tuple(v) if isinstance(v, list) else v for key, v in job['shape'].items()})
    device, name, backward = job['device'], job['name'], job['backward']
    inputs = make_inputs(shape, device)
    function = implementation(name, shape, device)
    small = Shape('warm-up', 1, 8, 4, shape.d_state, ('forward',))  # starts thread pools and imports, without memory
    small_inputs = {key: x.requires_grad_(backward) for key, x in make_inputs(small, device).items()}
    y = implementation(name, small, device)(**small_inputs)
    if backward:
        y.sum().backward()
        for x in inputs.values():
            x.requires_grad_()

    # A dense gradient, as a following layer would send it; the gradient of a sum would be a single number.
    gradient = torch.randn(shape.output, device=device) if backward else None

    def call() -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(backward):
            y = function(**inputs)
            if backward:
                torch.autograd.grad(y, list(inputs.values()), gradient)
        # A copy times itself, to leave out the allocation of its memory.
        return y if name == 'bytes' else time.perf_counter() - start

    def answer(question: str) -> int | tuple[float, float]:
        if question == 'memory':
            set_allocator(at_once=True)
            Path('/proc/self/clear_refs').write_text('5')  # the peak restarts from what is resident now
            before = resident('VmRSS')
            call()
            memory = resident('VmHWM') - before
            set_allocator(at_once=False)
            return memory
        times = [call()]
        while sum(times) < job['seconds'] / TURNS:
            times.append(call())
        return min(times), sum(times)

    serve(answer)


def check(shape: Shape, names: list[str], device: str) -> None:
    """Check that all implementations agree on a short version of the shape."""
    import torch

    side = None if shape.grid is None else (3, 4)
    short = replace(shape, batch=1, dim=16, length=12 if side else 20, grid=side)
    inputs = make_inputs(short, device)
    expected = implementation('ours:torch', short, device)(**inputs)
    for name in names:
        if name != 'limit':
            torch.testing.assert_close(implementation(name, short, device)(**inputs), expected, rtol=1e-3, atol=1e-4)


def measure(args: argparse.Namespace, shape: Shape, names: list[str]) -> dict[tuple, dict]:
    """Return milliseconds and megabytes of a shape by (its name, implementation, with the backward pass or not)."""
    workers: dict[tuple, Worker] = {}
    found: dict[tuple, dict] = {}

    def ask(key: tuple, question: str):
        try:
            return workers[key].ask(question)
        except WorkerEnded as error:
            print(f'{shape.name}: {key[1]} {error}', file=sys.stderr)
            workers.pop(key).close()
            found.pop(key, None)
        return None

    try:
        for name, backward in itertools.product(names, (False, True)):
            if backward and (name in LIMITS or (name == 'loop' and shape.length > LOOP_BACKWARD_LIMIT)):
                continue
            key = (shape.name, name, backward)
            workers[key] = Worker(
                __file__,
                {
                    'shape': asdict(shape),
                    'name': name,
                    'backward': backward,
                    'threads': args.threads,
                    'device': args.device,
                    'seconds': args.seconds,
                },
            )
        for key in list(workers):
            memory = ask(key, 'memory')
            if memory is not None:
                found[key] = {'ms': math.inf, 'mb': memory / 1e6, 'seconds': 0.0}
        for _ in range(TURNS):
            for key in [key for key, result in found.items() if result['seconds'] < ENOUGH]:
                times = ask(key, 'time')
                if times is not None:
                    found[key]['ms'] = min(found[key]['ms'], 1e3 * times[0])
                    found[key]['seconds'] += times[1]
    finally:
        for worker in workers.values():
            worker.close()
    return found


def available(args: argparse.Namespace) -> list[str]:
    """Return the names of the implementations that are asked for and can run here."""
    import importlib.util

    from mmvim.ops import backends

    names = [f'ours:{name}' for name, (usable, _) in backends().items() if usable and name != 'reference']
    if args.device != 'cpu':
        names = [name for name in names if name != 'ours:native']
    if importlib.util.find_spec('mambapy') is None:
        print('pscan is left out: mambapy is not installed (pip install --no-deps mambapy==1.2.0)', file=sys.stderr)
    else:
        names.append('pscan')
    names += ['loop', 'limit']
    wanted = args.implementations.split(',') if args.implementations else names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise SystemExit(f'--implementations {",".join(unknown)}: not available; there are {", ".join(names)}')
    return [name for name in names if name in wanted]


def processor() -> str:
    """Return the name of the processor."""
    cpu = Path('/proc/cpuinfo')
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.processor())


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.worker:
        work(json.loads(args.worker))
        return
    if args.device == 'cuda':
        from benchmark_scan_cuda import run

        run(args)
        return
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if args.quick:
        args.seconds = 0.1
    shapes = [shape for shape in SHAPES if args.shapes in shape.name]
    shapes = sorted(shapes, key=lambda shape: shape.elements)[:3] if args.quick else shapes
    if not shapes:
        raise SystemExit(f'--shapes {args.shapes!r} fits none of: {", ".join(shape.name for shape in SHAPES)}')
    names = available(args)
    about = (
        f'{processor()}, {args.threads} thread(s), Python {platform.python_version()}, PyTorch '
        f'{torch.__version__}; '
        f'python {" ".join(["tools/analysis_tools/benchmark_scan.py", *sys.argv[1:]])}'
    )
    console = Console(width=150)
    console.print(about)
    table = Table(*HEADER)
    found: dict = {}
    for shape in shapes:
        check(shape, names, args.device)
        found |= measure(
            args, shape, [*(name for name in names if name != 'limit'), *(LIMITS if 'limit' in names else ())]
        )
        if 'limit' in names:
            exps, softplus, copied = (found.pop((shape.name, name, False), None) for name in LIMITS)
            if exps and softplus and copied:  # a process that ended has none
                found[shape.name, 'limit', False] = {
                    **exps,
                    'ms': max(exps['ms'], copied['ms']),
                    'with_softplus_ms': max(exps['ms'], softplus['ms'], copied['ms']),
                }
        for name in names:
            table.add_row(*map(escape, row(shape, name, found)))
        console.print(f'done: {shape.name}', style='dim', markup=False)
    console.print(table)
    console.print('In brackets: how many times as fast as pscan, and what share of its memory.')
    if args.markdown:
        forward, both = (by_shape(shapes, names, found, backward) for backward in (False, True))
        args.markdown.write_text(
            '\n'.join([f'`{about}`', '', 'Forward:', '', *forward, '', 'Forward and backward:', '', *both, ''])
        )
    if args.json:
        args.json.write_text(
            json.dumps(
                [{'shape': s, 'implementation': n, 'backward': b, **r} for (s, n, b), r in found.items()], indent=1
            )
            + '\n'
        )


if __name__ == '__main__':
    main()
