"""Evaluate a checkpoint under MMSegmentation or MMDetection, whichever ``default_scope`` of the config names.

    python tools/test.py configs/upernet_vim_t_ade20k.py work_dirs/vim_t/iter_160000.pth --show-dir pictures

Whatever is missing or misspelt is reported in one line before anything is written; MMVIM_DEBUG=1 adds the traceback.
"""

import argparse
import sys
from collections.abc import Sequence

try:
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    import mmvim  # noqa: F401 makes ``mmvim::`` and ``mmseg::`` known to configs, so it must precede reading one
    from mmvim import cli
    from mmvim.checkpoints import allow_checkpoint_globals
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.config_parser('Evaluate a segmentor or a detector.')
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='checkpoint file or URL, hf://owner/repo/file too; a published file as it is',
    )
    cli.add_run_arguments(parser)
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, build and evaluate.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the config, the data or the checkpoint is wrong.
    """
    args = parse_args(argv)
    cli.warn_if_untested()
    cli.check_launcher(args.launcher)
    cli.publish_local_rank(args)
    allow_checkpoint_globals()
    cfg = cli.load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cli.set_work_dir(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False

    # The checkpoint is quick to read, so it is checked before the data set.
    cli.check_compiled_ops(cfg)
    file = cli.local_checkpoint(args.checkpoint)
    checkpoint = None if file is None else cli.read_checkpoint(file, 'CHECKPOINT')
    cli.check_data(cfg, ('test',))
    model = cli.build_model(cfg)
    if checkpoint is not None:
        cfg.load_from = cli.check_fit(model, checkpoint, file, 'CHECKPOINT', complete=True)

    cli.set_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.out is not None:
        cli.set_output(cfg, args.out)
    if args.tta:
        cli.set_tta(cfg, model)
    if args.check:
        return

    del model, checkpoint  # the runner has its own
    cli.prepare_cpu_distribution(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.test()


if __name__ == '__main__':
    cli.run_tool(main)
