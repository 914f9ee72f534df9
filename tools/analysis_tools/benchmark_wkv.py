#!/usr/bin/env python
"""Time of Vision-RWKV's bidirectional WKV on a CPU: ours, the quadratic formula and the limit, in one run.

    python tools/analysis_tools/benchmark_wkv.py --threads 1 --markdown table.md

Implementations, each fed the same numbers:
    ours:NAME   mmvim.ops.bi_wkv with that backend (native and torch, where they can run)
    quadratic   the formula as it is written, a row of weights for each token (up to T 1024, backward up to T 196)
    calls       an operator of the same arguments and results that computes nothing: what Python, dispatch and autograd
                take
    limit       the longer of two times, forward only: torch.exp on as many numbers as there are (batch, token,
                channel), a block in cache at a time, for each key has one exponential and no sum needs another; and a
                copy of as many bytes as k, v and the output have

Each measurement runs in a process of its own; those of a shape take turns with repeated calls, freed memory kept, and
the shortest time of each counts. Outputs are compared with the quadratic formula before anything is timed. Nothing else
should run on the machine. It measures mmvim itself, from a checkout.
"""

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmark_scan import ENOUGH, TURNS, processor, set_allocator
from taking_turns import ROOT, Worker, serve

sys.path.insert(0, str(ROOT))

LIMITS = ('exp', 'bytes')  # what 'limit' is made of
# Longer rows of the quadratic formula take minutes, backward also tens of gigabytes.
QUADRATIC, QUADRATIC_BACKWARD = 1024, 196


class Shape(NamedTuple):
    """Of k and v: (batch, length, dim)."""

    batch: int
    length: int
    dim: int

    def __str__(self) -> str:
        return f'B {self.batch}, T {self.length}, C {self.dim}'


# Pictures of 224, 512, 1024 and 1248 pixels a side; the published models' widths.
SHAPES = [Shape(1, length, dim) for length in (196, 1024, 4096, 6084) for dim in (192, 384, 768, 1024)]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch. Defaults to 1')
    parser.add_argument('--shapes', default='', help='only shapes whose name contains this, as "T 1024,"')
    parser.add_argument('--implementations', default='', help='only these, separated by commas')
    parser.add_argument('--boundary', default='exact', choices=['exact', 'published'], help='Defaults to exact')
    parser.add_argument(
        '--seconds', type=float, default=1.0, help=f'least time of repeated calls, in {TURNS} turns. Defaults to 1'
    )
    parser.add_argument('--quick', action='store_true', help='the two smallest shapes, briefly')
    parser.add_argument('--markdown', type=Path, help='write the tables here too')
    parser.add_argument('--json', type=Path, help='write every number here')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    return parser.parse_args()


def make_inputs(shape: Shape) -> tuple:
    """Return decay and bonus as the published models have them, divided by T, and k and v."""
    import torch

    generator = torch.Generator().manual_seed(0)
    batch, length, dim = shape
    k, v = (torch.randn(batch, length, dim, generator=generator) for _ in range(2))
    decay = torch.linspace(-5, 3, dim) / length
    return decay, torch.randn(dim, generator=generator) / length, k, v


def implementation(name: str, boundary: str) -> Callable:
    """Return a function of decay, bonus, k and v."""
    import torch

    from mmvim.ops import bi_wkv

    if name == 'exp':

        def exponentials(decay, bonus, k, v):
            block = k.flatten()[: 1 << 12]
            out, (repeats, rest) = torch.empty_like(block), divmod(k.numel(), block.numel())
            for _ in range(repeats):
                torch.exp(block, out=out)
            torch.exp(block[:rest], out=out[:rest])

        return exponentials
    if name == 'bytes':

        def copy(decay, bonus, k, v):
            half = k.numel() + k.numel() // 2  # so many are read, and as many are written
            source, target = buffers.setdefault(half, (torch.zeros(half), torch.zeros(half)))
            target.copy_(source)

        buffers: dict = {}
        return copy
    if name == 'calls':
        op = nothing_op()
        return lambda *inputs: op(*inputs, boundary == 'published', 'auto')
    backend = 'reference' if name == 'quadratic' else name.removeprefix('ours:')
    return lambda *inputs: bi_wkv(*inputs, boundary=boundary, backend=backend)


def nothing_op() -> Callable:
    """Define an operator with the schema and the derivative of ours that leaves its results as memory has them."""
    import torch

    from mmvim.ops.bi_wkv import operators
    from mmvim.ops.define import define_operator, register_derivative

    tensors = 'Tensor decay, Tensor bonus, Tensor k, Tensor v, bool published, str backend'
    results = '(Tensor, Tensor, Tensor, Tensor)'
    forward = define_operator(f'benchmark_fwd({tensors}) -> Tensor', operators._fake_forward, operators._fake_forward)
    backward = define_operator(
        f'benchmark_bwd(Tensor grad, {tensors}) -> {results}', operators._fake_backward, operators._fake_backward
    )

    def differentiate(ctx, grad: torch.Tensor) -> tuple:
        return *backward(grad, *ctx.saved_tensors, ctx.published, ctx.backend), None, None

    register_derivative('benchmark_fwd', differentiate, operators._setup_context)
    return forward


def work(job: dict) -> None:
    """Answer with the seconds of a turn in this process: the shortest, and their sum."""
    import torch

    torch.set_num_threads(job['threads'])
    set_allocator(at_once=False)
    shape, backward = Shape(*job['shape']), job['backward']
    inputs, function = make_inputs(shape), implementation(job['name'], job['boundary'])
    if backward:
        for x in inputs:
            x.requires_grad_()
    gradient = torch.randn(*shape)  # dense, as a following layer would send it

    def call() -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(backward):
            y = function(*inputs)
            if backward:
                torch.autograd.grad(y, inputs, gradient)
        return time.perf_counter() - start

    def answer(question: str) -> tuple[float, float]:
        times = [call()]
        while sum(times) < job['seconds'] / TURNS:
            times.append(call())
        return min(times), sum(times)

    call()
    serve(answer)


def check(names: list[str], boundary: str) -> None:
    """Check that all implementations agree on a small shape."""
    import torch

    inputs = make_inputs(Shape(2, 70, 24))
    expected = implementation('quadratic', boundary)(*inputs)
    for name in names:
        if name not in ('calls', 'limit'):
            torch.testing.assert_close(implementation(name, boundary)(*inputs), expected, rtol=1e-4, atol=1e-5)


def is_measured(name: str, backward: bool, shape: Shape) -> bool:
    """Return whether an implementation is timed: the quadratic formula on short rows only, limits forward only."""
    if name == 'quadratic':
        return shape.length <= (QUADRATIC_BACKWARD if backward else QUADRATIC)
    return not (backward and name in LIMITS)


def measure(args: argparse.Namespace, shape: Shape, names: list[str]) -> dict[tuple[str, bool], float]:
    """Return milliseconds of a shape by implementation and with the backward pass or not."""
    parts = [*(name for name in names if name != 'limit'), *(LIMITS if 'limit' in names else ())]
    job = {'shape': shape, 'threads': args.threads, 'seconds': args.seconds, 'boundary': args.boundary}
    workers: dict[tuple[str, bool], Worker] = {}
    shortest: dict[tuple[str, bool], float] = {}
    spent = dict.fromkeys(itertools.product(parts, (False, True)), 0.0)
    try:
        for name, backward in spent:
            if is_measured(name, backward, shape):
                workers[name, backward] = Worker(__file__, {**job, 'name': name, 'backward': backward})
        for _ in range(TURNS):
            for key, worker in workers.items():
                if spent[key] < ENOUGH:
                    least, total = worker.ask('time')
                    shortest[key] = min(shortest.get(key, least), least)
                    spent[key] += total
    finally:
        for worker in workers.values():
            worker.close()
    found = {key: 1e3 * seconds for key, seconds in shortest.items()}
    if 'limit' in names:
        found['limit', False] = max(found.pop((name, False)) for name in LIMITS)
    return found


def available(wanted: str) -> list[str]:
    """Return the names of the implementations that are asked for and can run here."""
    from mmvim.ops.bi_wkv.operators import BACKENDS

    usable = {name for name, (here, _) in BACKENDS.available().items() if here}
    names = [f'ours:{name}' for name in ('native', 'torch') if name in usable] + ['quadratic', 'calls', 'limit']
    unknown = sorted(set(wanted.split(',')) - set(names)) if wanted else []
    if unknown:
        raise SystemExit(f'--implementations {",".join(unknown)}: not available; there are {", ".join(names)}')
    return [name for name in names if not wanted or name in wanted.split(',')]


def tables(found: dict[Shape, dict[tuple[str, bool], float]], names: list[str]) -> list[str]:
    """Return two Markdown tables with a line for each shape: forward with multiples of the limit, and with backward.

    In brackets behind the time with the backward pass is its multiple of the forward pass alone. The time of calls has
    no multiples.
    """
    ours = [name for name in names if name != 'limit']
    lines = []
    for backward in (False, True):
        head = ['shape', *(['limit, ms'] if 'limit' in names and not backward else []), *(f'{n}, ms' for n in ours)]
        lines += ['Forward and backward:' if backward else 'Forward:', '']
        lines += ['| ' + ' | '.join(head) + ' |', '|' + '-|' * len(head)]
        for shape, times in found.items():
            limit, cells = times.get(('limit', False)), [str(shape)]
            if 'limit' in names and not backward:
                cells.append(f'{limit:.3f}')
            for name in ours:
                time_, base = times.get((name, backward)), times.get((name, False)) if backward else limit
                told = time_ and base and name != 'calls'
                ratio = f' ({time_ / base:.1f}x {"forward" if backward else "limit"})' if told else ''
                cells.append(f'{time_:.3f}{ratio}' if time_ else '-')
            lines.append('| ' + ' | '.join(cells) + ' |')
        lines.append('')
    return lines


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.worker:
        work(json.loads(args.worker))
        return
    import torch

    args.seconds = 0.1 if args.quick else args.seconds
    shapes = [shape for shape in SHAPES if args.shapes in str(shape)][: 2 if args.quick else None]
    if not shapes:
        raise SystemExit(f'--shapes {args.shapes!r} fits none of: {"; ".join(map(str, SHAPES))}')
    names = available(args.implementations)
    check(names, args.boundary)
    about = (
        f'`{processor()}, {args.threads} thread(s), Python {platform.python_version()}, PyTorch {torch.__version__}; '
        f'python {" ".join(["tools/analysis_tools/benchmark_wkv.py", *sys.argv[1:]])}`'
    )
    found: dict[Shape, dict[tuple[str, bool], float]] = {}
    for shape in shapes:
        found[shape] = measure(args, shape, names)
        print(f'done: {shape}', file=sys.stderr)
    text = '\n'.join([about, '', *tables(found, names)])
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    if args.json:
        rows = [
            {'shape': shape._asdict(), 'implementation': name, 'backward': backward, 'ms': ms}
            for shape, times in found.items()
            for (name, backward), ms in times.items()
        ]
        args.json.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
