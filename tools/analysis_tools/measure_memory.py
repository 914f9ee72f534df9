#!/usr/bin/env python
"""Peak memory of backbones by the side of the picture, in inference and in training.

    python tools/analysis_tools/measure_memory.py --json work_dirs/memory.json --markdown table.md

The tiny model of every family, or those that --models names, with the outputs that its recipes for dense prediction
take. Inference is a forward pass without gradients; training a forward and a backward pass, without an optimizer's own
states. A peak is that of one call after another of a small picture, weights included, and, in training, gradients. On
a CPU it is what the process holds at most, less what it held before the call.

Each row has a process of its own, and is written to --json as soon as it is there: the same command goes on where it
was stopped.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from taking_turns import ROOT

sys.path.insert(0, str(ROOT))

KINDS = ('inference', 'training')
FIELDS = ('model', 'side', 'kind', 'batch', 'device', 'precision')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--models',
        default='',
        help='only models whose name contains this; or a list with commas, in which family:arch names any published '
        'architecture',
    )
    parser.add_argument('--sides', type=int, nargs='+', default=[224, 512, 1024], help='Defaults to 224 512 1024')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS), help='Defaults to both')
    parser.add_argument('--batch', type=int, default=1, help='Defaults to 1')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'], help='Defaults to cpu')
    parser.add_argument(
        '--precision',
        default='float32',
        choices=['float32', 'bfloat16', 'float16'],
        help='of autocast. Defaults to float32, none',
    )
    parser.add_argument('--json', type=Path, required=True, help='where the rows are kept')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.sides) < 32 or args.batch < 1:
        parser.error('--sides must be at least 32 and --batch at least 1')
    return args


def measure(row: dict) -> dict:
    """Return a row with its peak in MB, or with what happened instead."""
    import torch
    from backbones import dense_outputs, make
    from benchmark_backbone import resident

    device, dtype, training = row['device'], getattr(torch, row['precision']), row['kind'] == 'training'
    model = make(row['model'], row['side'], dense_outputs(row['model'])).to(device).train(training)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())

    def call(batch: int, side: int) -> None:
        pictures = torch.randn(batch, 3, side, side, device=device)
        with (
            torch.set_grad_enabled(training),
            torch.autocast(device, dtype, enabled=dtype != torch.float32),
        ):
            outputs = model(pictures)
        if training:
            sum(y.float().square().mean() for y in outputs).backward()

    call(2, 64)  # what is allocated once; two pictures, for batch norms of one value
    model.zero_grad()
    try:
        if device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
            call(row['batch'], row['side'])
            peak = torch.cuda.max_memory_allocated()
        else:
            Path('/proc/self/clear_refs').write_text('5')  # the peak restarts from what is resident now
            before = resident('VmRSS')
            call(row['batch'], row['side'])
            peak = resident('VmHWM') - before + weights
    except torch.OutOfMemoryError:
        return {**row, 'failed': 'out of memory'}
    return {**row, 'mb': peak / 1e6}


def key_of(row: dict) -> tuple:
    """Return what tells a row from others."""
    return tuple(row[field] for field in FIELDS)


def read(path: Path) -> dict[tuple, dict]:
    """Return the rows that are there."""
    return {key_of(row): row for row in json.loads(path.read_text())} if path.exists() else {}


def write(path: Path, found: dict[tuple, dict]) -> None:
    """Write all rows, so that a stop leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix('.tmp')
    beside.write_text(json.dumps(list(found.values()), indent=1) + '\n')
    beside.replace(path)


def run(row: dict) -> dict:
    """Measure a row in a process of its own, which may be killed for its memory."""
    command = [sys.executable, __file__, '--json', '-', '--worker', json.dumps(row)]
    # Memory that is freed goes back at once, so that no call finds what an earlier one has left.
    settings = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})
    if done.returncode < 0:
        return {**row, 'failed': 'killed'}
    if done.returncode:
        raise SystemExit(f'{" ".join(map(str, key_of(row)))} failed:\n{done.stderr[-2000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict], labels: dict[str, str], sides: list[int], kinds: list[str]) -> list[str]:
    """Return the lines of a table: a model a line, a side and kind a column."""
    columns = [(side, kind) for kind in kinds for side in sides]
    found = {(row['model'], row['side'], row['kind']): row for row in rows}
    lines = ['| MB | ' + ' | '.join(f'{kind}, {side}' for side, kind in columns) + ' |', '|-|' + '-|' * len(columns)]
    for label, model in labels.items():
        cells = []
        for side, kind in columns:
            row = found[model, side, kind]
            cells.append(f'{row["mb"]:.0f}' if 'mb' in row else row['failed'])
        lines.append(f'| {label} | {" | ".join(cells)} |')
    return lines


def main(argv: list[str] | None = None) -> None:
    """Measure what is missing, and write."""
    args = parse_args(argv)
    if args.worker:
        print(json.dumps(measure(json.loads(args.worker))))
        return
    import torch
    from backbones import choose, published

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('--device cuda: PyTorch finds no CUDA device')
    usual = published(['tiny', 'nano', 'l1'])
    labels = {label: model or usual[label] for label, model in choose(args.models, usual).items()}
    found, rows = read(args.json), []
    for model in labels.values():
        for kind in args.kinds:
            for side in args.sides:
                values = (model, side, kind, args.batch, args.device, args.precision)
                row = dict(zip(FIELDS, values, strict=True))
                if key_of(row) not in found:
                    found[key_of(row)] = run(row)
                    write(args.json, found)
                    print(*key_of(row), found[key_of(row)].get('mb', 'failed'), file=sys.stderr, flush=True)
                rows.append(found[key_of(row)])
    where = torch.cuda.get_device_name() if args.device == 'cuda' else f'a CPU, {platform.machine()}'
    about = f'{where}, {args.precision}, batch {args.batch}, PyTorch {torch.__version__}'
    lines = [f'`{about}`', '', *table(rows, labels, args.sides, args.kinds), '']
    print('\n'.join(lines))
    if args.markdown:
        args.markdown.write_text('\n'.join(lines))


if __name__ == '__main__':
    main()
