"""Train a model of mmvim under MMSegmentation or MMDetection, whichever ``default_scope`` of the config names.

    python tools/train.py configs/upernet_vim_t_ade20k.py --work-dir work_dirs/vim_t

Whatever is missing or misspelt is reported in one line before anything is written; MMVIM_DEBUG=1 adds the traceback.
"""

import argparse
import sys
from collections.abc import Sequence

try:
    from mmengine.config import Config
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    import mmvim  # noqa: F401 makes ``mmvim::`` and ``mmseg::`` known to configs, so it must precede reading one
    from mmvim import cli
    from mmvim.checkpoints import allow_checkpoint_globals
    from mmvim.engine.hooks import RandomStateHook
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.config_parser('Train a segmentor or a detector.')
    cli.add_run_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='mixed precision (float16 with loss scaling); needs a GPU')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / auto_scale_lr.base_batch_size of the config',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint; alone: from the last one in the work dir, if there is one',
    )
    return parser.parse_args(argv)


def scale_lr(cfg: Config) -> None:
    """Switch on ``auto_scale_lr``.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: If the config does not say for which batch size its learning rate is.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise cli.UserError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size, which the config lacks',
            'pass --cfg-options auto_scale_lr.base_batch_size=N, or leave it out',
        )
    cfg.auto_scale_lr.enable = True


def main(argv: Sequence[str] | None = None) -> None:
    """Check, build and train.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, the config, the data or a checkpoint is wrong.
    """
    args = parse_args(argv)
    cli.warn_if_untested()
    cli.check_launcher(args.launcher)
    cli.publish_local_rank(args)
    allow_checkpoint_globals()
    if not cli.has_accelerator():
        cli.keep_freed_memory()
    cfg = cli.load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cli.set_work_dir(cfg, args)
    cli.set_precision(cfg, args.amp)
    if args.auto_scale_lr:
        scale_lr(cfg)
    cli.set_resume(cfg, args.resume)

    cli.check_compiled_ops(cfg)
    cli.check_data(cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',))
    model = cli.build_model(cfg)
    cli.check_pretrained(cfg, model)
    cli.check_start(cfg, model)
    if args.check:
        return

    del model  # the runner has its own
    cli.prepare_cpu_distribution(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if not any(isinstance(hook, RandomStateHook) for hook in runner.hooks):
        runner.register_hook(RandomStateHook())
    runner.train()


if __name__ == '__main__':
    cli.run_tool(main)
