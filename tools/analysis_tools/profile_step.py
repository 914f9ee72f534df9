#!/usr/bin/env python
"""Where the time of a backbone's training step goes on a CPU, and how many images a second it takes.

    python tools/analysis_tools/profile_step.py --threads 2 --markdown table.md

For the tiny backbone of each family, or those that --models names, and each backend of the scan: images/s of a forward
pass without gradients and of a training step (forward and backward of the backbone), and the share of the step's time
by kind of operation from PyTorch's profiler. Each has a process of its own; they take turns pass by pass, so that
whatever else the machine does meets all alike, and the shortest time of each counts. An operation counts for the
innermost kind that it belongs to. The backward passes of normalisations are sums and products like others, so norm with
residual addition is also timed alone, at the model's shapes. The memory of freed tensors is kept, as tools/train.py
does on a CPU; the last row of each backbone is without that ("plain malloc"). Nothing else should run on the machine.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from taking_turns import ROOT, Worker, WorkerEnded, serve
from torch import Tensor, nn

sys.path.insert(0, str(ROOT))

# Beginnings of the profiler's names.
KINDS = {
    'selective scan': ('mmvim::selective_scan', 'mmvim_native::scan'),
    'short convolution + SiLU': ('mmvim::conv_silu', 'mmvim_native::conv_silu'),
    'matrix products': ('aten::mm', 'aten::addmm', 'aten::bmm', 'aten::linear', 'aten::matmul'),
    'attention': ('aten::_scaled_dot_product', 'aten::scaled_dot_product'),
    'other convolutions': ('aten::convolution', 'aten::_convolution', 'aten::mkldnn_convolution', 'aten::conv'),
    'batch and layer norm': (
        'aten::native_batch_norm',
        'aten::native_layer_norm',
        'aten::layer_norm',
        'aten::batch_norm',
    ),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, default=512, help='pixels of a side. Defaults to 512')
    parser.add_argument('--batch', type=int, default=1, help='Defaults to 1')
    parser.add_argument('--threads', type=int, default=2, help='threads of PyTorch. Defaults to 2')
    parser.add_argument(
        '--models',
        default='',
        help='only models whose name contains this; or a list with commas, in which family:arch names any published '
        'architecture',
    )
    parser.add_argument('--backends', default='torch,native', help='of the scan. Defaults to torch,native')
    parser.add_argument('--repeats', type=int, default=10, help='timed steps. Defaults to 10')
    parser.add_argument('--markdown', type=Path, help='write the tables here too')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    return parser.parse_args()


def shares(step: Callable[[], None], repeats: int) -> dict[str, float]:
    """Return each kind's share of the profiled time; 'other' is the rest."""
    from torch.profiler import ProfilerActivity, profile

    def kind_of(event) -> str:
        while event is not None:
            found = next((kind for kind, names in KINDS.items() if event.name.startswith(names)), None)
            if found:
                return found
            event = event.cpu_parent
        return 'other'

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            step()
    total: Counter = Counter()
    for event in profiler.events():
        total[kind_of(event)] += event.self_cpu_time_total
    return {kind: value / sum(total.values()) for kind, value in total.most_common()}


def norm_inputs(model: nn.Module, images: Tensor) -> list[tuple[nn.Module, list[Tensor]]]:
    """List the RMSNorms that the model calls, each with two tensors of the shape that it is given."""
    from mmvim.models import RMSNorm

    shapes: dict[nn.Module, torch.Size] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, given: shapes.update({module: given[0].shape}))
        for module in model.modules()
        if isinstance(module, RMSNorm)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    pairs = {shape: [torch.randn(shape, requires_grad=True) for _ in range(2)] for shape in set(shapes.values())}
    return [(module, pairs[shape]) for module, shape in shapes.items()]


def work(job: dict) -> None:
    """Measure one model with one backend in this process: the seconds of what is asked for, or the shares of a step."""
    from backbones import dense_outputs, make

    from mmvim.cli import keep_freed_memory

    if job['keep'] and not keep_freed_memory():
        raise RuntimeError('the memory of freed tensors cannot be kept: unset MALLOC_* and GLIBC_TUNABLES')
    torch.set_num_threads(job['threads'])
    model = make(job['model'], job['size'], dense_outputs(job['model'])).train()
    images = torch.randn(job['batch'], 3, job['size'], job['size'])
    norms = norm_inputs(model, images)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def step() -> None:
        sum(y.square().mean() for y in model(images)).backward()

    def norm() -> None:
        for module, (stream, hidden) in norms:
            module(stream + hidden).sum().backward()

    tasks = {'forward': forward, 'step': step, 'norm': norm}

    def answer(name: str) -> dict | float | None:
        if name == 'shares':
            return shares(step, 3)
        if name == 'norm' and not norms:
            return None
        start = time.perf_counter()
        tasks[name]()
        return time.perf_counter() - start

    serve(answer)


def measure(args: argparse.Namespace, model: str) -> dict[str, dict]:
    """Return the seconds of each measurement and the shares of a step for every backend of one model."""
    job = {'model': model, 'size': args.size, 'batch': args.batch, 'threads': args.threads}
    backends = args.backends.split(',')
    variants = [*((backend, True) for backend in backends), (backends[-1], False)]
    workers = {
        backend if keep else f'{backend}, plain malloc': Worker(
            __file__, {**job, 'keep': keep}, {'MMVIM_SCAN_BACKEND': backend}
        )
        for backend, keep in variants
    }
    found: dict[str, dict] = {label: {} for label in workers}
    try:
        for name in ('forward', 'step', 'norm'):
            for turn in range(args.repeats + 1):
                for label, worker in workers.items():
                    seconds = worker.ask(name)
                    if turn and seconds is not None:  # the first is to warm up
                        found[label][name] = min(seconds, found[label].get(name, seconds))
        for label, worker in workers.items():
            found[label]['shares'] = worker.ask('shares')
    except WorkerEnded as error:
        raise SystemExit(f'{model}, {label}: {error}') from None
    finally:
        for worker in workers.values():
            worker.close()
    return found


def main() -> None:
    """Measure and write."""
    args = parse_args()
    if args.worker:
        work(json.loads(args.worker))
        return
    from backbones import choose, published
    from benchmark_scan import processor

    about = (
        f'{processor()}, {args.threads} thread(s), {args.batch} x {args.size} x {args.size} pixels, Python '
        f'{platform.python_version()}, PyTorch {torch.__version__}'
    )
    speed = ['| backbone | scan | forward, images/s | training step, images/s |', '|-|-|-|-|']
    table = [
        '| backbone | scan | ' + ' | '.join([*KINDS, 'other', 'RMSNorm + residual, timed alone']) + ' |',
        '|-|-|' + '-|' * (len(KINDS) + 2),
    ]
    print(about)
    usual = published(['tiny'])
    for name, model in choose(args.models, usual).items():
        results = measure(args, model or usual[name])
        first = next(iter(results.values()))
        for scan, result in results.items():
            cells = [f'{args.batch / result[key]:.2f} ({first[key] / result[key]:.1f}x)' for key in ('forward', 'step')]
            speed.append(f'| {name} | {scan} | {" | ".join(cells)} |')
            kinds = [f'{100 * result["shares"].get(kind, 0):.1f} %' for kind in (*KINDS, 'other')]
            kinds.append(f'{100 * result["norm"] / result["step"]:.1f} %' if 'norm' in result else '-')
            table.append(f'| {name} | {scan} | {" | ".join(kinds)} |')
            print(speed[-1], table[-1], sep='\n', flush=True)
    text = '\n'.join([f'`{about}`', '', *speed, '', 'Share of the training step:', '', *table, ''])
    print(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == '__main__':
    main()
