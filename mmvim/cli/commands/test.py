"""Evaluate a checkpoint under MMSegmentation or MMDetection, whichever ``default_scope`` of the config names.

    mmvim test upernet_vim_t_ade20k work_dirs/vim_t/iter_160000.pth --show-dir pictures

Whatever is missing or misspelt is reported in one line before anything is written; MMVIM_DEBUG=1 adds the traceback.
"""

import argparse
from collections.abc import Sequence

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmvim.checkpoints import allow_checkpoint_globals
from mmvim.cli.arguments import add_dtype_argument, add_run_arguments, config_parser, publish_local_rank
from mmvim.cli.config import check_compiled_ops, load_config, set_work_dir, warn_if_untested
from mmvim.cli.data import check_data
from mmvim.cli.errors import UserError
from mmvim.cli.evaluation import set_output, set_tiles, set_tta, set_visualization, without_wrapper
from mmvim.cli.faults import run_errors
from mmvim.cli.labels import check_samples
from mmvim.cli.machine import check_launcher, fit_to_cpu, has_accelerator, prepare_cpu_distribution
from mmvim.cli.model import build_model
from mmvim.cli.noise import NoiseFilter
from mmvim.cli.weights import check_fit, local_checkpoint, read_checkpoint
from mmvim.deploy.low_precision import compute_in_bf16
from mmvim.engine.hooks import UnreadableFilesHook


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = config_parser('test')
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='checkpoint file or URL, hf://owner/repo/file too; a published file as it is',
    )
    add_run_arguments(parser)
    parser.add_argument(
        '--out', metavar='PATH', help='keep the predictions: a folder for label maps (mmseg), or a .pkl file (mmdet)'
    )
    parser.add_argument('--show', action='store_true', help='show each prediction in a window')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='save each prediction, drawn, to DIR (mmdet: below the work dir)'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2.0, metavar='S', help='seconds a window stays open. Defaults to 2'
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--tile',
        type=int,
        nargs='+',
        metavar=('H', 'W'),
        help='predict large pictures tile by tile, with blended seams and bounded memory (mmseg): height and width '
        'of a tile in pixels; one number for a square',
    )
    parser.add_argument(
        '--overlap', type=int, metavar='N', help='pixels that tiles share at least. Defaults to a quarter of a tile'
    )
    add_dtype_argument(parser)
    args = parser.parse_args(argv)
    if args.overlap is not None and args.tile is None:
        parser.error('--overlap says how far tiles overlap, and --tile is missing')
    if args.tile is not None and args.tta:
        parser.error('--tile and --tta exclude each other: tiles leave no scores to merge')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, build and evaluate.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the config, the data or the checkpoint is wrong.
    """
    args = _parse_args(argv)
    warn_if_untested()
    check_launcher(args.launcher)
    publish_local_rank(args)
    allow_checkpoint_globals()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False

    # The checkpoint is quick to read, so it is checked before the data set.
    check_compiled_ops(cfg)
    file = local_checkpoint(args.checkpoint)
    checkpoint = None if file is None else read_checkpoint(file, 'CHECKPOINT')
    check_data(cfg, ('test',))
    model = without_wrapper(build_model(cfg))
    samples = check_samples(cfg, model, ('test',), thorough=args.check)
    if file is not None and checkpoint is not None:
        cfg.load_from = check_fit(model, checkpoint, file, 'CHECKPOINT', complete=True)

    set_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.out is not None:
        set_output(cfg, args.out)
    if args.tta:
        set_tta(cfg, model)
    if args.tile is not None:
        if cfg.model.get('type') == 'mmvim.TiledSegmentor':
            raise UserError('--tile: the config works by tiles already', 'set model.tile by --cfg-options instead')
        set_tiles(cfg, model, args.tile, args.overlap)
    if args.check:
        print('\n'.join(samples))
        return

    del model, checkpoint  # the runner has its own
    if not has_accelerator() and args.launcher == 'none':
        print(fit_to_cpu(cfg, ('test',)))
    prepare_cpu_distribution(cfg)
    with run_errors(cfg.work_dir, resumable=False):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.logger.addFilter(NoiseFilter())
        runner.register_hook(UnreadableFilesHook())
        if args.dtype == 'bf16':
            compute_in_bf16(runner.model)
        runner.test()
