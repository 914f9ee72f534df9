#!/usr/bin/env python
"""Images a second and peak memory of backbones against the side of the image: what does a scan gain over attention?

    python tools/analysis_tools/benchmark_backbone.py --device cuda --markdown table.md --chart chart.png

The models have random weights and compute features only: the tiny and small model of every family (MambaVision with
the classifiers' windows), and DeiT-T and -S, both with the attention that the paper compares with (all products of
queries and keys in memory) and with PyTorch's fused attention (FlashAttention on a GPU). --models takes others, as in
--models vim:base,mambavision:large2,DeiT. They run under no_grad and, on a GPU, autocast.
Each point is measured alone, after one call to warm up; memory is the peak of a call, weights included. The batch is
the same for all models at one side.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIDES = (224, 384, 512, 640, 738, 1024, 1248, 1536, 2048)
HEADER = [
    'model',
    'side',
    'batch',
    'images/s',
    'peak memory, MB',
    'times the images/s of DeiT, plain',
    'memory saved against DeiT, plain, %',
    'times the images/s of DeiT, fused',
]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'], help='Defaults to cpu')
    parser.add_argument(
        '--sides',
        type=int,
        nargs='+',
        default=list(SIDES),
        help=f'pixels, multiples of 16 or not. Defaults to {" ".join(map(str, SIDES))}',
    )
    parser.add_argument(
        '--batch',
        type=int,
        help='pictures a call. Defaults to 64 at 224, fewer at larger sides, so '
        'that their pixels are about as many; at least 1',
    )
    parser.add_argument(
        '--models',
        default='',
        help='only models whose name contains this; or a list with commas, in which family:arch names any published '
        'architecture',
    )
    parser.add_argument('--channels', type=int, default=3, help='of the pictures. Defaults to 3')
    parser.add_argument(
        '--dtype',
        default='float16',
        choices=['float16', 'bfloat16', 'float32'],
        help='of autocast on a GPU (the CPU computes in float32). Defaults to float16',
    )
    parser.add_argument('--seconds', type=float, default=2.0, help='least time of repeated calls. Defaults to 2')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--json', type=Path, help='write every number here')
    parser.add_argument('--chart', type=Path, help='draw images/s and memory against the side, as a picture')
    args = parser.parse_args()
    if min(args.sides) < 32 or (args.batch is not None and args.batch < 1) or args.channels < 1:
        parser.error('--sides must be at least 32, --batch and --channels at least 1')
    import torch

    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device')
    return args


def models(channels: int = 3) -> dict[str, Callable]:
    """Return the builder of each model by name: a function of the side of the image."""
    from backbones import make, published
    from deit import DeiT

    found: dict[str, Callable] = {
        name: partial(make, model, channels=channels) for name, model in published(['tiny', 'small']).items()
    }
    for kind, fused in (('plain', False), ('fused', True)):
        for size, dim in (('T', 192), ('S', 384)):
            found[f'DeiT-{size}, {kind}'] = partial(DeiT, dim=dim, fused=fused, channels=channels)
    return found


def chosen_models(text: str, channels: int = 3) -> dict[str, Callable]:
    """Return the builders of the models that ``--models`` names."""
    from backbones import choose, make

    usual = models(channels)
    return {
        name: partial(make, model, channels=channels) if model else usual[name]
        for name, model in choose(text, usual).items()
    }


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(build: Callable, side: int, batch: int, args: argparse.Namespace) -> dict:
    """Return images a second and peak memory in MB, or what happened instead."""
    import torch

    from mmvim.models.backbones.common import picture_channels

    cuda = args.device == 'cuda'
    model = build(side).eval().to(args.device)
    picture = torch.randn(batch, picture_channels(model), side, side, device=args.device)
    dtype = getattr(torch, args.dtype)

    def call() -> None:
        with torch.no_grad(), torch.autocast(args.device, dtype, enabled=cuda and dtype != torch.float32):
            model(picture)
        if cuda:
            torch.cuda.synchronize()

    try:
        call()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            call()
            memory = torch.cuda.max_memory_allocated()
        else:
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            Path('/proc/self/clear_refs').write_text('5')  # the peak restarts from what is resident now
            before = resident('VmRSS')
            call()
            memory = resident('VmHWM') - before + weights
        times: list[float] = []
        while sum(times) < args.seconds or len(times) < 3:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return {'failed': 'out of memory'}
    return {'images_per_s': batch / statistics.median(times), 'mb': memory / 1e6}


def row(name: str, side: int, batch: int, found: dict) -> list[str]:
    """Return one line of the table."""
    result = found[name, side]
    if 'failed' in result:
        return [name, str(side), str(batch), result['failed'], '-', '-', '-', '-']
    size = name.partition(',')[0].rpartition('-')[2]

    def ratio(peer: str, field: str) -> float | None:
        other = found.get((f'DeiT-{size}, {peer}', side), {})
        return result[field] / other[field] if field in other else None

    plain, memory, fused = ratio('plain', 'images_per_s'), ratio('plain', 'mb'), ratio('fused', 'images_per_s')
    return [
        name,
        str(side),
        str(batch),
        f'{result["images_per_s"]:.1f}',
        f'{result["mb"]:.0f}',
        '-' if plain is None else f'{plain:.2f}',
        '-' if memory is None else f'{100 * (1 - memory):.1f}',
        '-' if fused is None else f'{fused:.2f}',
    ]


def draw(found: dict, path: Path, title: str) -> None:
    """Draw images a second and memory against the side, one line a model."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout='constrained')
    names = list(dict.fromkeys(name for name, _ in found))
    for axis, field, label in zip(axes, ('images_per_s', 'mb'), ('images a second', 'peak memory, MB'), strict=True):
        for number, name in enumerate(names):
            points = [(side, r[field]) for (n, side), r in found.items() if n == name and field in r]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    marker='o',
                    label=name,
                    color=f'C{number // 2}',
                    linestyle='-' if number % 2 else '--',
                )
        axis.set(xlabel='side of the picture in pixels', ylabel=label, xscale='log', yscale='log')
        axis.grid(alpha=0.3, which='both')
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and write."""
    args = parse_args()
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    chosen = chosen_models(args.models, args.channels)
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if args.device == 'cuda' else f'{torch.get_num_threads()} thread(s) of a CPU'
    kind = args.dtype if args.device == 'cuda' else 'float32'
    about = (
        f'{where}, {kind}, Python {platform.python_version()}, PyTorch {torch.__version__}; '
        f'python tools/analysis_tools/benchmark_backbone.py {" ".join(sys.argv[1:])}'.strip()
    )
    console = Console(width=160)
    console.print(about)
    found: dict[tuple[str, int], dict] = {}
    batches = {side: args.batch or max(1, 64 * 224 * 224 // (side * side)) for side in args.sides}
    for side in args.sides:
        for name, build in chosen.items():
            if args.device == 'cuda':
                torch.cuda.empty_cache()
            found[name, side] = measure(build, side, batches[side], args)
        console.print(f'done: {side}', style='dim')
    lines = [row(name, side, batches[side], found) for name, side in found]
    table = Table(*HEADER)
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)
    if args.markdown:
        head = [f'`{about}`', '', '| ' + ' | '.join(HEADER) + ' |', '|' + '-|' * len(HEADER)]
        args.markdown.write_text('\n'.join([*head, *('| ' + ' | '.join(line) + ' |' for line in lines), '']))
    if args.json:
        args.json.write_text(
            json.dumps([{'model': n, 'side': s, 'batch': batches[s], **r} for (n, s), r in found.items()], indent=1)
            + '\n'
        )
    if args.chart:
        draw(found, args.chart, about.partition('; ')[0])


if __name__ == '__main__':
    main()
