"""Train a model of mmvim under MMSegmentation or MMDetection, whichever ``default_scope`` of the config names.

    mmvim train upernet_vim_t_ade20k --work-dir work_dirs/vim_t

Whatever is missing or misspelt is reported in one line before anything is written; MMVIM_DEBUG=1 adds the traceback.
"""

import argparse
import sys
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmvim.checkpoints import allow_checkpoint_globals
from mmvim.cli.arguments import AMP_KINDS, add_run_arguments, config_parser, name_amp, publish_local_rank
from mmvim.cli.config import check_compiled_ops, load_config, set_work_dir, warn_if_untested
from mmvim.cli.data import check_data
from mmvim.cli.errors import UserError
from mmvim.cli.faults import add_fault_arguments, add_fault_hooks, run_errors, save_durably, shard_resumably
from mmvim.cli.first_step import check_first_step, warn_of_batch
from mmvim.cli.labels import check_samples
from mmvim.cli.machine import (
    check_launcher,
    fit_to_cpu,
    has_accelerator,
    keep_freed_memory,
    prepare_cpu_distribution,
    set_precision,
)
from mmvim.cli.model import build_model, check_wrapping
from mmvim.cli.noise import NoiseFilter
from mmvim.cli.pretrained import check_pretrained
from mmvim.cli.records import add_record_hooks
from mmvim.cli.weights import check_start, set_resume


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = config_parser('train')
    add_run_arguments(parser)
    parser.add_argument(
        '--amp',
        choices=AMP_KINDS,
        help='mixed precision: alone or fp16 for float16 with loss scaling, which needs a GPU; bf16 for bfloat16, on a '
        'GPU or a CPU',
    )
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
    parser.add_argument(
        '--resume-with',
        choices=('config', 'checkpoint'),
        help='whose schedule and optimizer settings a resumed run follows where they differ (default: those of the '
        'checkpoint, unless they would bring the learning rate to 0 before the end)',
    )
    add_fault_arguments(parser)
    return parser.parse_args(name_amp(sys.argv[1:] if argv is None else argv))


def _scale_lr(cfg: Config) -> None:
    """Switch on ``auto_scale_lr``, if the config says for which batch size its learning rate is."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(
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
    args = _parse_args(argv)
    warn_if_untested()
    check_launcher(args.launcher)
    publish_local_rank(args)
    allow_checkpoint_globals()
    if not has_accelerator():
        keep_freed_memory()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args)
    set_precision(cfg, args.amp)
    if args.auto_scale_lr:
        _scale_lr(cfg)
    set_resume(cfg, args.resume)

    check_compiled_ops(cfg)
    stages = ('train', 'val') if cfg.get('val_cfg') else ('train',)
    check_data(cfg, stages)
    model = build_model(cfg)
    check_wrapping(cfg, model)
    check_first_step(cfg, model)
    samples = check_samples(cfg, model, stages, thorough=args.check, unreadable=args.unreadable)
    check_pretrained(cfg, model)
    resume = check_start(cfg, model, args.resume_with)
    warn_of_batch(cfg)
    if args.check:
        print('\n'.join(samples))
        return

    del model  # the runner has its own
    if not has_accelerator() and args.launcher == 'none':
        print(fit_to_cpu(cfg, stages))
    prepare_cpu_distribution(cfg)
    save_durably(cfg)
    shard_resumably(cfg)
    with run_errors(cfg.work_dir):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.logger.addFilter(NoiseFilter())
        runner.register_hook(resume)
        add_fault_hooks(runner, args)
        add_record_hooks(runner)
        runner.train()
