"""Render the demo scenes, train a small backbone on them, evaluate it and draw the results.

Run by ``make demo``; needs only a CPU and a few minutes::

    python demo/demo.py
    python demo/demo.py --config configs/demo/upernet_mambavision_demo.py --work-dir work_dirs/demo_mambavision

Training is the same as with ``tools/train.py`` and the same config; this tool renders the scenes beforehand and draws
the figures afterwards.
"""

import argparse
import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

try:
    from mmvim.cli.threads import let_threads_sleep

    let_threads_sleep()  # before PyTorch is imported, which the rest does

    import numpy as np
    from mmengine.config import Config
    from mmengine.dataset import BaseDataset
    from mmengine.logging import MMLogger
    from mmengine.runner import Runner

    import mmvim  # noqa: F401 makes ``mmseg::`` known to configs
    from mmvim import cli
    from mmvim.analysis.contact_sheet import SheetRow, contact_sheet
    from mmvim.analysis.curves import plot_curves, read_curve
    from mmvim.analysis.majority_floor import majority_floor
    from mmvim.cli.machine import fit_to_cpu
    from mmvim.datasets.bands import as_rgb
    from mmvim.engine.progress import clock, progress_display
    from scenes import DemoSceneParams, write_demo_scenes
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; run `make demo`, or install mmvim with pip install -e .[seg] in its folder')

ROOT = Path(__file__).resolve().parent.parent
SHEET_SCENES = 8
QUICK_SCENES = DemoSceneParams(train=4, val=4, size=(64, 96))
QUICK_ITERS = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.OneLineParser(description='Render scenes, train a small model on them, draw what it sees.')
    parser.add_argument('--config', default=str(ROOT / 'configs/demo/upernet_vim_demo.py'), help='default: %(default)s')
    parser.add_argument(
        '--data',
        help='folder of the scenes, made if missing (default: data/demo; data/demo_bands for a config of five bands)',
    )
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder of the results (default: %(default)s)')
    parser.add_argument('--iters', type=int, help="iterations; the schedule is scaled to them (default: the config's)")
    parser.add_argument(
        '--quick',
        action='store_true',
        help='only see whether everything runs: 4 tiny scenes and 4 iterations, in folders ending in _quick',
    )
    args = parser.parse_args(argv)
    if args.iters is not None and args.iters < 1:
        parser.error(f'--iters must be 1 or greater, got {args.iters}')
    if args.quick:
        args.work_dir = f'{args.work_dir}_quick'
    return args


def choose_scenes(cfg: Config, args: argparse.Namespace) -> DemoSceneParams:
    """Return what to render for a config, and put the folder for it into the arguments."""
    bands = cfg.model.backbone.get('in_channels', 3)
    if args.data is None:
        args.data = 'data/demo' if bands == 3 else 'data/demo_bands'
    args.data = f'{args.data}_quick' if args.quick else args.data
    return (QUICK_SCENES if args.quick else DemoSceneParams())._replace(bands=bands)


def make_scenes(folder: str, params: DemoSceneParams) -> None:
    """Render the scenes unless they are there.

    Args:
        folder: Where to write them.
        params: What to render.

    Raises:
        UserError: If the folder holds something else or cannot be written.
    """
    try:
        with progress_display('Rendering', params.train + params.val) as advance:
            write_demo_scenes(folder, params, progress=lambda done, _: advance(done))
    except OSError as error:
        raise cli.UserError(str(error), 'or name another one with --data', cli.ENVIRONMENT) from error


def adapt(cfg: Config, args: argparse.Namespace) -> None:
    """Put the command line's folders and schedule into the config."""
    cfg.work_dir = args.work_dir
    # MMEngine keeps one visualizer per name, and the folder of its records, as long as the process lives.
    cfg.visualizer.name = f'demo {Path(args.work_dir).resolve()}'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(Path(args.data) / 'ADEChallengeData2016')
    if args.quick:
        cfg.train_dataloader.batch_size = cfg.val_dataloader.batch_size = 2
        cfg.model.data_preprocessor.size = QUICK_SCENES.size
    iters = args.iters or (QUICK_ITERS if args.quick else None)
    if iters is not None:
        scale_schedule(cfg, iters)


def scale_schedule(cfg: Config, iters: int) -> None:
    """Stretch or shorten a config's schedule to a number of iterations."""
    scale = iters / cfg.train_cfg.max_iters
    for scheduler in cfg.param_scheduler:
        scheduler.begin, scheduler.end = round(scheduler.begin * scale), round(scheduler.end * scale)
    cfg.param_scheduler = [scheduler for scheduler in cfg.param_scheduler if scheduler.end > scheduler.begin]
    cfg.train_cfg.max_iters = iters
    cfg.train_cfg.val_interval = max(round(cfg.train_cfg.val_interval * scale), 1)
    cfg.default_hooks.checkpoint.interval = iters
    cfg.default_hooks.logger.interval = min(cfg.default_hooks.logger.interval, max(iters // 4, 1))


def build_runner(cfg: Config) -> Runner:
    """Build the runner; the console shows errors only, the log file in the work dir has everything."""
    # What is hidden: the environment, the initialisation of every layer, remarks on optional packages.
    with redirect_stdout(io.StringIO()):
        import mmseg.datasets  # noqa: F401

        runner = Runner.from_cfg(cfg)
    for handler in MMLogger.get_current_instance().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stdout)
            handler.setLevel(logging.ERROR)
    return runner


def labels_of(dataset: BaseDataset) -> Iterator[np.ndarray]:
    """Yield the label maps of a data set."""
    for index in range(len(dataset)):
        yield dataset[index]['data_samples'].gt_sem_seg.data.numpy()


def _colours(picture: np.ndarray) -> np.ndarray:
    """Return the colours of a picture (H, W, C): blue comes first where there are three, red among more."""
    return picture[..., ::-1] if picture.shape[2] == 3 else as_rgb(picture)


def draw_sheet(runner: Runner, path: Path) -> None:
    """Draw the first scenes of the validation set with their truth and the model's prediction."""
    dataset = runner.val_dataloader.dataset
    runner.model.eval()
    rows = []
    for index in range(min(SHEET_SCENES, len(dataset))):
        item = dataset[index]
        (result,) = runner.model.test_step({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]})
        rows.append(
            SheetRow(
                _colours(item['inputs'].permute(1, 2, 0).numpy()),
                item['data_samples'].gt_sem_seg.data[0].numpy(),
                result.pred_sem_seg.data[0].cpu().numpy(),
            )
        )
    contact_sheet(path, rows, dataset.metainfo['classes'], dataset.metainfo['palette'], groups=2)


def report(runner: Runner, name: str) -> dict:
    """Draw the figures into the work dir and return the numbers."""
    out, val_set = Path(runner.work_dir), runner.val_dataloader.dataset
    classes = val_set.metainfo['classes']
    floor = majority_floor(labels_of(runner.train_dataloader.dataset), labels_of(val_set), len(classes))
    scalars = Path(runner.log_dir) / 'vis_data' / 'scalars.json'
    loss, score = read_curve(scalars, 'loss'), read_curve(scalars, 'mIoU')
    plot_curves(
        out / 'learning_curve.png',
        {name: loss},
        {name: score},
        floors={'always the most frequent class': floor['mIoU']},
    )
    draw_sheet(runner, out / 'contact_sheet.png')
    return {
        'mIoU': float(score.values[-1]),
        'floor_mIoU': round(floor['mIoU'], 2),
        'floor_class': classes[floor['class']],
        'val_scenes': len(val_set),
        'iterations': int(score.steps[-1]),
        'parameters': sum(parameter.numel() for parameter in runner.model.parameters()),
        'checkpoint': (out / 'last_checkpoint').read_text(encoding='utf-8').strip(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command is wrong or a folder cannot be used.
    """
    args = parse_args(argv)
    begin = time.monotonic()
    if not cli.has_accelerator():
        cli.keep_freed_memory()
    cfg = cli.load_config(args.config, None)
    params = choose_scenes(cfg, args)
    make_scenes(args.data, params)
    adapt(cfg, args)
    if not cli.has_accelerator():
        print(fit_to_cpu(cfg, ('train', 'val')))
    warnings.filterwarnings('ignore')  # the libraries' remarks to each other; errors still show

    runner = build_runner(cfg)
    name = f'{cfg.model.backbone.type.split(".")[-1]} under {cfg.model.decode_head.type}'
    size = sum(parameter.numel() for parameter in runner.model.parameters()) / 1e6
    print(f'Training {name} ({size:.1f} million parameters, not pre-trained) for {cfg.train_cfg.max_iters} iterations')
    runner.train()
    numbers = report(runner, name)
    numbers |= {'config': args.config, 'seconds': round(time.monotonic() - begin, 1)}
    out = Path(cfg.work_dir)
    (out / 'metrics.json').write_text(json.dumps(numbers, indent=2) + '\n', encoding='utf-8')
    print(f"""
mIoU on {numbers['val_scenes']} scenes it has never seen: {numbers['mIoU']:.1f} %
mIoU of always answering {numbers['floor_class']!r}: {numbers['floor_mIoU']:.1f} %
Time for everything: {clock(numbers['seconds'])} min

What it sees     {out / 'contact_sheet.png'}
How it learned   {out / 'learning_curve.png'}
The model        {numbers['checkpoint']}
The numbers      {out / 'metrics.json'}""")


if __name__ == '__main__':
    cli.run_tool(main)
