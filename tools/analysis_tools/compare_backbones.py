#!/usr/bin/env python
"""Compare every family with MMSegmentation's backbones and a control: one decoder, schedule, budget and size.

    python tools/analysis_tools/compare_backbones.py rows                              # what is compared, and its size
    python tools/analysis_tools/compare_backbones.py run --data-root .../CamVid        # train what has no log yet
    python tools/analysis_tools/compare_backbones.py row vim 0 --data-root .../CamVid  # one row and seed
    python tools/analysis_tools/compare_backbones.py latency                           # alone on the machine
    python tools/analysis_tools/compare_backbones.py table --page docs/comparison.md --chart docs/comparison.png

Each row and seed is trained in a process of its own, which leaves a log in OUT when it is done, so that 'run' can be
stopped and started again at any time; its config and weights are in OUT/runs. The table, what the spread of the seeds
carries, and the chart are written from the logs alone. A log of another model or budget than asked for is an error.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

if TYPE_CHECKING:
    from comparison_rows import Budget
    from mmengine.config import Config

SEEDS = (0, 1, 2)
CONFIG = 'config.py'  # beside the trained weights, for the other tools
FOLDERS = ('train', 'trainannot', 'test', 'testannot')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'work_dirs/comparison',
        help='folder of the logs. Defaults to work_dirs/comparison',
    )
    threads = argparse.ArgumentParser(add_help=False)
    threads.add_argument('--threads', type=int, default=1, help='Defaults to 1')
    training = argparse.ArgumentParser(add_help=False, parents=[out, threads])
    training.add_argument('--data-root', type=Path, required=True, help='the folder CamVid')
    training.add_argument('--iterations', type=int, default=600, help='Defaults to 600')
    training.add_argument('--batch', type=int, default=8, help='crops an iteration. Defaults to 8')
    training.add_argument('--crop', type=int, default=96, help='side of a crop in pixels. Defaults to 96')
    training.add_argument('--lr', type=float, default=1e-3, help='Defaults to 1e-3')
    training.add_argument('--again', action='store_true', help='replace logs that are there')
    commands.add_parser('rows', help='print the rows with their parameters and FLOPs')
    run = commands.add_parser('run', parents=[training], help='train every row and seed without a log, one by one')
    run.add_argument('--rows', nargs='+', default=[], help='only these. Defaults to all')
    run.add_argument('--seeds', type=int, nargs='+', default=list(SEEDS), help='Defaults to 0 1 2')
    run.add_argument('--prefix', default='', help="what each row's process is started by, such as 'nice -n 10'")
    row = commands.add_parser('row', parents=[training], help='train one row with one seed, in this process')
    row.add_argument('row', help="a name out of 'rows'")
    row.add_argument('seed', type=int)
    latency = commands.add_parser('latency', parents=[out, threads], help='time every model on the CPU, by turns')
    latency.add_argument('--rounds', type=int, default=20, help='Defaults to 20')
    table = commands.add_parser('table', parents=[out], help='write the table and the chart from the logs')
    table.add_argument('--page', type=Path, help='put the table into this page, between its marks')
    table.add_argument('--chart', type=Path, help='draw the chart here, a PNG')
    args = parser.parse_args()
    for name in ('iterations', 'batch', 'crop', 'threads', 'rounds', 'lr'):
        if getattr(args, name, 1) <= 0:
            parser.error(f'--{name} {getattr(args, name)} must be positive')
    if getattr(args, 'crop', 32) % 32:
        parser.error(f'--crop {args.crop} must be a multiple of 32, the coarsest stride')
    if hasattr(args, 'data_root'):
        missing = [name for name in FOLDERS if not (args.data_root / name).is_dir()]
        if missing:
            parser.error(
                f"--data-root {args.data_root} has no folder {missing[0]}: give SegNet's CamVid (docs/data.md)"
            )
        args.data_root = args.data_root.resolve()
    return args


def budget_of(args: argparse.Namespace) -> 'Budget':
    """Return the budget that the options give."""
    from comparison_rows import Budget

    return Budget(args.iterations, args.batch, args.crop, args.lr)


def build(cfg: 'Config') -> Any:
    """Build the segmentor of a config."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    return MODELS.build(cfg.model)


def sizes(model: Any, cfg: 'Config') -> dict[str, int]:
    """Count a segmentor: parameters, and FLOPs of a test picture.

    Raises:
        SystemExit: If its backbone is not of the size of the others.
    """
    from comparison_rows import PARAMETERS, PICTURE, TOLERANCE

    from mmvim.analysis.flops import count_complexity, forward_once

    counts = count_complexity(model, forward_once(model, cfg, PICTURE))
    backbone, whole = counts['backbone'], counts['']
    if abs(backbone.params / PARAMETERS - 1) > TOLERANCE:
        raise SystemExit(
            f'error: the backbone {cfg.model.backbone.type} has {backbone.params} parameters, which is not '
            f'{PARAMETERS} within {TOLERANCE:.0%}; change its width in comparison_rows.py'
        )
    return {
        'backbone_parameters': backbone.params,
        'parameters': whole.params,
        'macs': whole.macs,
        'scan_flops': whole.scan_flops,
    }


def train(args: argparse.Namespace) -> Path:
    """Train and score a row with a seed; return its log."""
    import torch
    from comparison_logs import log_path, machine, read_log, rows_named, settings, write_json
    from comparison_rows import config
    from mmengine.runner import Runner

    from mmvim.engine.hooks import LearningCurveHook

    budget = budget_of(args)
    name = rows_named([args.row])[0]
    path = log_path(args.out, name, args.seed)
    if path.exists() and not args.again:
        read_log(path, name, args.seed, budget)
        print(f'{path} is there; --again replaces it')
        return path
    torch.set_num_threads(args.threads)
    cfg = config(name, args.seed, args.data_root, budget)
    sizes(build(cfg), cfg)  # before anything is trained
    cfg.work_dir = str(args.out / 'runs' / path.stem)
    cfg.visualizer = {'type': 'SegLocalVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}
    runner = Runner.from_cfg(cfg)
    cfg.dump(Path(cfg.work_dir) / CONFIG)
    runner.register_hook(LearningCurveHook())
    marks = [time.process_time()]
    runner.train()
    marks.append(time.process_time())
    scores = runner.test()
    marks.append(time.process_time())
    scalars = Path(runner.log_dir) / 'vis_data/scalars.json'
    steps = [json.loads(line) for line in scalars.read_text().splitlines()] if scalars.exists() else []
    write_json(
        path,
        {
            'row': name,
            'seed': args.seed,
            **settings(name, budget),
            **sizes(runner.model, cfg),
            **{key: float(scores[key]) for key in ('mIoU', 'mAcc', 'aAcc')},
            'pictures': {
                'train': len(runner.train_dataloader.dataset),
                'test': len(runner.test_dataloader.dataset),
            },
            'losses': [[step['step'], round(step['loss'], 4)] for step in steps if 'loss' in step],
            'cpu_seconds': {'training': round(marks[1] - marks[0], 1), 'test': round(marks[2] - marks[1], 1)},
            'machine': machine(args.threads),
        },
    )
    print(f'wrote {path}: mIoU {scores["mIoU"]:.2f}')
    return path


def run(args: argparse.Namespace, start: Callable[..., Any] = subprocess.run) -> None:
    """Train, one after the other in processes of their own, what has no log.

    Args:
        args: The options.
        start: Runs a command. Defaults to ``subprocess.run``.

    Raises:
        SystemExit: If a log is of another model or budget, before anything is trained; or if trainings have failed.
    """
    from comparison_logs import log_path, read_log, rows_named

    rows, budget = rows_named(args.rows), budget_of(args)
    jobs = [(row, seed) for seed in args.seeds for row in rows]
    for row, seed in jobs if not args.again else ():
        if log_path(args.out, row, seed).exists():
            read_log(log_path(args.out, row, seed), row, seed, budget)
    options = [f'--{name}={getattr(args, name)}' for name in ('iterations', 'batch', 'crop', 'lr', 'threads')]
    options += [f'--data-root={args.data_root}', f'--out={args.out}', *(['--again'] if args.again else [])]
    failed = []
    for number, (row, seed) in enumerate(jobs, 1):
        if log_path(args.out, row, seed).exists() and not args.again:
            continue
        output = args.out / 'runs' / f'{row}_seed{seed}.txt'
        output.parent.mkdir(parents=True, exist_ok=True)
        print(f'{number}/{len(jobs)}: {row}, seed {seed}', flush=True)
        command = [*shlex.split(args.prefix), sys.executable, __file__, 'row', row, str(seed), *options]
        with output.open('w') as stream:
            done = start(command, stdout=stream, stderr=subprocess.STDOUT, env=environment(args.threads), check=False)
        if done.returncode:
            failed.append(f'{row}, seed {seed} ({output})')
    if failed:
        raise SystemExit(f'error: failed: {"; ".join(failed)}; the files have the reason')


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process with so many threads."""
    return {**os.environ, 'OMP_NUM_THREADS': str(threads), 'PYTHONPATH': str(ROOT)}


def measure_latency(args: argparse.Namespace) -> Path:
    """Time the models on one test picture, in rounds that take turns; write and return the file."""
    import torch
    from comparison_logs import LATENCY, machine, settings, write_json
    from comparison_rows import PICTURE, ROWS, Budget, config

    torch.set_num_threads(args.threads)
    models = {row: build(config(row, 0, '', Budget())).eval() for row in ROWS}
    picture = torch.rand(1, 3, *PICTURE)
    times: dict[str, list[float]] = {row: [] for row in ROWS}
    with torch.no_grad():
        for _ in range(args.rounds):
            for row, model in models.items():
                model(picture, mode='tensor')  # its weights come back into the caches
                once = []
                for _ in range(3):
                    start = time.perf_counter()
                    model(picture, mode='tensor')
                    once.append(1e3 * (time.perf_counter() - start))
                times[row].append(statistics.median(once))
    rows = {}
    for row, values in times.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        rows[row] = {
            'model': settings(row, Budget())['model'],
            'median': statistics.median(values),
            'low': low,
            'high': high,
        }
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    content = {'rows': rows, 'rounds': args.rounds, 'machine': machine(args.threads), 'load_average': load}
    write_json(args.out / LATENCY, content)
    print('\n'.join(f'{row}: {entry["median"]:.1f} ms' for row, entry in rows.items()))
    return args.out / LATENCY


def print_rows() -> None:
    """Print what is compared."""
    from comparison_rows import ROWS, Budget, config

    print('| row | backbone | backbone (M) | whole model (M) | GFLOPs |\n|-|-|-|-|-|')
    for name, row in ROWS.items():
        cfg = config(name, 0, '', Budget())
        size = sizes(build(cfg), cfg)
        millions = (f'{size[key] / 1e6:.3f}' for key in ('backbone_parameters', 'parameters'))
        print(f'| {name} | {row.title} | {" | ".join(millions)} | {size["macs"] / 1e9:.2f} |', flush=True)


def write_table(args: argparse.Namespace) -> str:
    """Write the table and the chart, print the table and return it."""
    from comparison_logs import read_latency, read_logs
    from comparison_table import chart, summarise, table, write_page

    results, latency = summarise(read_logs(args.out)), read_latency(args.out)
    picture = os.path.relpath(args.chart, args.page.parent) if args.page and args.chart else ''
    text = table(results, latency, Path(picture).as_posix() if picture else '')
    if args.page:
        write_page(args.page, text)
    if args.chart:
        chart(args.chart, results, latency)
    print(text, end='')
    return text


def main() -> None:
    """Do what the command says."""
    args = parse_args()
    if hasattr(args, 'threads'):
        os.environ['OMP_NUM_THREADS'] = str(args.threads)  # before PyTorch is imported
    if args.command == 'rows':
        print_rows()
    elif args.command == 'run':
        run(args)
    elif args.command == 'row':
        train(args)
    elif args.command == 'latency':
        measure_latency(args)
    else:
        write_table(args)


if __name__ == '__main__':
    main()
