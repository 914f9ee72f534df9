"""A trained model that draws on pictures, from the command line of ``mmvim demo`` and ``mmvim app``."""

import argparse

from mmengine.config import Config

from mmvim.analysis.overlay import OverlayPainter
from mmvim.checkpoints import allow_checkpoint_globals
from mmvim.cli.config import check_compiled_ops, load_config
from mmvim.cli.errors import ENVIRONMENT, UserError
from mmvim.cli.evaluation import set_tiles, without_wrapper
from mmvim.cli.model import build_model
from mmvim.cli.noise import quiet
from mmvim.cli.weights import check_fit, local_checkpoint, read_checkpoint
from mmvim.deploy.low_precision import compute_in_bf16


def add_painter_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model predicts and draws.

    Args:
        parser: The parser, changed in place.

    Examples:
        >>> from mmvim.cli import OneLineParser
        >>> from mmvim.cli.painter import add_painter_arguments
        >>> parser = OneLineParser()
        >>> add_painter_arguments(parser)
        >>> parser.parse_args(['--opacity', '0.5']).opacity
        0.5
    """
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of an instance. Defaults to 0.3')
    parser.add_argument('--opacity', type=float, default=0.6, help='of the prediction, 0 to 1. Defaults to 0.6')
    parser.add_argument(
        '--max-side',
        type=int,
        default=2048,
        metavar='PIXELS',
        help='longer pictures are shrunk to this side (with --tile only where they are drawn). Defaults to 2048',
    )
    parser.add_argument(
        '--tile',
        type=int,
        nargs='+',
        metavar=('H', 'W'),
        help='predict tile by tile, at the full size and with bounded memory (mmseg); one number for a square',
    )
    parser.add_argument('--device', help='Defaults to cuda if there is one, else cpu')


def build_painter(args: argparse.Namespace, config: str | None = None, checkpoint: str | None = None) -> OverlayPainter:
    """Build the model that a command line names, with the checks of ``mmvim test``.

    Args:
        args: The command line, with what :func:`add_painter_arguments` adds, ``cfg_options`` and ``dtype``.
        config: Defaults to None, ``args.config``.
        checkpoint: Defaults to None, ``args.checkpoint``.

    Raises:
        UserError: If the config, the checkpoint or an option is wrong.

    Examples:
        >>> import argparse
        >>> from mmvim.cli import UserError
        >>> from mmvim.cli.painter import build_painter
        >>> try:
        ...     build_painter(argparse.Namespace(cfg_options=None), 'upernet_vin_t_ade20k', 'vim.pth')
        ... except UserError as error:
        ...     print(str(error).split(' or ')[0])
        config upernet_vin_t_ade20k does not exist; did you mean upernet_vim_t_ade20k
    """
    config, checkpoint = config or args.config, checkpoint or args.checkpoint
    allow_checkpoint_globals()
    cfg = load_config(config, args.cfg_options)
    check_compiled_ops(cfg)
    file = local_checkpoint(checkpoint)
    weights = checkpoint
    model = without_wrapper(build_model(cfg))
    if file is not None:
        weights = check_fit(model, read_checkpoint(file, 'CHECKPOINT'), file, 'CHECKPOINT', complete=True)
    if args.tile is not None:
        if cfg.default_scope == 'mmseg':
            _without_resize(cfg)
        set_tiles(cfg, model, args.tile, None)
    try:
        with quiet():
            painter = OverlayPainter(
                cfg,
                weights,
                args.device,
                args.score_thr,
                args.opacity,
                args.max_side,
                full_size=args.tile is not None,
                bands=getattr(args, 'bands', None),
            )
    except ValueError as error:
        name, _, rest = str(error).partition(' ')
        option = f'--{name.replace("_", "-")}' if name in ('score_thr', 'opacity', 'max_side') else name
        raise UserError(f'{option} {rest}', 'correct the config or the option') from error
    except (RuntimeError, AssertionError) as error:  # of a device that PyTorch cannot use
        if args.device is None:
            raise
        problem = str(error).splitlines()[0][:120]
        raise UserError(
            f'--device {args.device}: {problem}', 'leave it out, or give cpu or cuda', ENVIRONMENT
        ) from error
    if args.dtype == 'bf16':
        compute_in_bf16(painter.model)
    return painter


def _without_resize(cfg: Config) -> None:
    """Let tiles see a picture at its own size."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    dataset['pipeline'] = [step for step in dataset['pipeline'] if not str(step.get('type')).endswith('Resize')]
