#!/usr/bin/env python
"""Train the small models of configs/camvid or configs/overfit on real pictures, and compare them.

    python tools/analysis_tools/real_pictures.py camvid --data-root .../CamVid
    python tools/analysis_tools/real_pictures.py overfit --data-root .../ADEChallengeData2016

Each model is trained by tools/train.py and scored by tools/test.py in its own process; what is already in WORK_DIR is
not done again. Results go to WORK_DIR/TASK (logs, checkpoints) and OUT (TASK.json, TASK_curves.png); the table is
printed as Markdown. The task 'camvid' scores the test split, 'overfit' the training images themselves.

It measures mmvim itself, from a checkout.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=['camvid', 'overfit'])
    parser.add_argument('--data-root', required=True, type=Path, help='the folder CamVid or ADEChallengeData2016')
    parser.add_argument('--only', default='', help='train only the configs whose name contains this')
    parser.add_argument('--jobs', type=int, default=2, help='models trained at a time. Defaults to 2')
    parser.add_argument('--threads', type=int, default=1, help='threads of each. Defaults to 1')
    parser.add_argument('--max-iters', type=int, help="shorten or lengthen the training. Defaults to the config's")
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs')
    parser.add_argument('--out', type=Path, help='folder of results. Defaults to WORK_DIR/TASK')
    args = parser.parse_args()
    if not args.data_root.is_dir():
        parser.error(f'--data-root {args.data_root} is not a folder')
    return args


def run(config: Path, args: argparse.Namespace) -> Path:
    """Train and score one config, and return its work folder."""
    work = args.work_dir / args.task / config.stem
    done = work / 'scores.json'
    if done.exists():
        return work
    loaders = ('train', 'val', 'test')
    options = [f'{name}_dataloader.dataset.data_root={args.data_root}' for name in loaders]
    if args.max_iters:
        options += [
            f'train_cfg.max_iters={args.max_iters}',
            f'train_cfg.val_interval={max(1, args.max_iters // 4)}',
            f'param_scheduler.0.end={args.max_iters // 10}',
            f'param_scheduler.1.begin={args.max_iters // 10}',
            f'param_scheduler.1.end={args.max_iters}',
            f'default_hooks.checkpoint.interval={args.max_iters}',
        ]
    env = {**os.environ, 'OMP_NUM_THREADS': str(args.threads), 'PYTHONPATH': str(ROOT)}
    work.mkdir(parents=True, exist_ok=True)
    with (work / 'output.txt').open('a') as log:

        def call(tool: str, *arguments: str) -> None:
            command = [
                sys.executable,
                str(ROOT / 'tools' / tool),
                str(config),
                *arguments,
                '--work-dir',
                str(work),
                '--cfg-options',
                *options,
            ]
            result = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
            if result.returncode:
                tail = (work / 'output.txt').read_text().splitlines()[-5:]
                raise SystemExit('\n'.join([*tail, f'{tool} of {config.name} failed; see {work / "output.txt"}']))

        if not (work / 'last_checkpoint').exists():
            print(f'training {config.stem}', flush=True)
            call('train.py')
        checkpoint = (work / 'last_checkpoint').read_text().strip()
        print(f'scoring {config.stem}', flush=True)
        call('test.py', checkpoint)
    newest = max(work.glob('*/*.json'), key=lambda path: path.stat().st_mtime)  # test.py's own folder
    done.write_text(newest.read_text())
    return work


def result(config: Path, work: Path, args: argparse.Namespace) -> dict:
    """Return scores, size and time of one trained model."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import mmvim  # noqa: F401  (configs inherit from mmseg::)

    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    millions = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in (('backbone', model.backbone), ('model', model))
    }
    scores = json.loads((work / 'scores.json').read_text())
    times = [entry['time'] for entry in scalars(work) if 'time' in entry and 'loss' in entry]
    iterations = max(entry['step'] for entry in scalars(work) if 'loss' in entry)
    return {
        'name': config.stem.split('_')[0],
        'backbone_m': millions['backbone'],
        'model_m': millions['model'],
        'mIoU': scores['mIoU'],
        'aAcc': scores['aAcc'],
        'mAcc': scores['mAcc'],
        'iterations': iterations,
        'seconds_per_iteration': sum(times) / len(times),
    }


def scalars(work: Path) -> list[dict]:
    """Return what MMEngine recorded of the training."""
    newest = max(work.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_size)  # the training's
    return [json.loads(line) for line in newest.read_text().splitlines() if line.strip()]


def floor(config: Path, args: argparse.Namespace) -> dict:
    """Return the scores of always predicting the class that is most frequent in training."""
    import mmcv
    import numpy as np
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    import mmvim  # noqa: F401
    from mmvim.analysis.majority_floor import majority_floor

    cfg = Config.fromfile(config)
    init_default_scope('mmseg')

    def labels(loader: dict) -> Iterator[np.ndarray]:
        dataset = DATASETS.build({**loader['dataset'], 'data_root': str(args.data_root), 'pipeline': []})
        for index in range(len(dataset)):
            label = mmcv.imread(dataset.get_data_info(index)['seg_map_path'], flag='unchanged', backend='pillow')
            yield label - 1 if dataset.reduce_zero_label else label  # uint8: 0 becomes 255, the ignored label

    return majority_floor(
        labels(cfg.train_dataloader),
        labels(cfg.test_dataloader),
        cfg.model.decode_head.num_classes,
        cfg.model.decode_head.get('ignore_index', 255),
    )


def main() -> None:
    """Train, score, draw."""
    args = parse_args()
    args.data_root, args.work_dir = args.data_root.resolve(), args.work_dir.resolve()
    configs = sorted(path for path in (ROOT / 'configs' / args.task).glob('*.py') if args.only in path.name)
    if not configs:
        raise SystemExit(f'no config in configs/{args.task} has {args.only!r} in its name')
    with ThreadPoolExecutor(args.jobs) as pool:
        works = list(pool.map(lambda config: run(config, args), configs))

    from mmvim.analysis.curves import plot_curves, read_curve

    rows = [result(config, work, args) for config, work in zip(configs, works, strict=True)]
    base = floor(configs[0], args)
    out = args.out or args.work_dir / args.task
    out.mkdir(parents=True, exist_ok=True)
    logs = {
        row['name']: max(work.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_size)
        for row, work in zip(rows, works, strict=True)
    }
    scored, floor_of = (
        ('validation split', 'majority class, test split')
        if args.task == 'camvid'
        else ('the training pictures', 'majority class')
    )
    plot_curves(
        out / f'{args.task}_curves.png',
        {name: read_curve(path, 'loss') for name, path in logs.items()},
        {name: read_curve(path, 'mIoU') for name, path in logs.items()},
        score_name=f'mIoU (%), {scored}',
        floors={floor_of: base['mIoU']},
    )
    (out / f'{args.task}.json').write_text(
        json.dumps(
            {
                'models': rows,
                'floor': base,
                'threads': args.threads,
                'jobs': args.jobs,
                'python': platform.python_version(),
                'torch': __import__('torch').__version__,
            },
            indent=1,
        )
        + '\n'
    )

    print('\n| model | backbone (M) | whole model (M) | iterations | s / it | mIoU | mAcc | aAcc |\n|-|-|-|-|-|-|-|-|')
    for row in rows:
        print(
            '| {name} | {backbone_m:.2f} | {model_m:.2f} | {iterations} | {seconds_per_iteration:.2f} | {mIoU:.1f} | '
            '{mAcc:.1f} | {aAcc:.1f} |'.format(**row)
        )
    print('| majority class | - | - | - | - | {mIoU:.1f} | - | {aAcc:.1f} |'.format(**base))


if __name__ == '__main__':
    main()
