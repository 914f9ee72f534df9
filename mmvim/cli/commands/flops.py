"""Count the parameters and FLOPs of a model, the selective scan included.

    mmvim flops upernet_vim_t_ade20k --shape 512 512
    mmvim flops upernet_mambavision_t_ade20k --depth 3      # part by part, down to the backbone's levels

Needs neither data nor a checkpoint. mmvim/analysis/flops.py says what is counted.
"""

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from mmvim.analysis.flops import Complexity, UncountedScanError, count_complexity, default_shape, forward_once
from mmvim.cli.arguments import config_parser
from mmvim.cli.config import check_compiled_ops, load_config
from mmvim.cli.errors import ENVIRONMENT, UserError
from mmvim.cli.model import build_model


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = config_parser('flops')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar=('H', 'W'),
        help='size of the picture; one number for a square. Defaults to the training crop (mmseg) or 800 1280 (mmdet)',
    )
    parser.add_argument(
        '--depth',
        type=int,
        default=1,
        help="levels of parts in the table: 2 shows the backbone's stages. Defaults to 1",
    )
    args = parser.parse_args(argv)
    if args.depth < 1:
        parser.error(f'--depth {args.depth} is not positive')
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape {" ".join(map(str, args.shape))} is not one or two positive numbers')
    return args


def _giga(number: int) -> str:
    """Return a number in billions, as text."""
    return f'{number / 1e9:,.2f} G'


def _report(counts: dict[str, Complexity], shape: tuple[int, int], title: str) -> Table:
    """Return the table to print: a row for each part that has parameters or operations, and one for the whole model."""
    table = Table(title=f'{title} at {shape[0]} x {shape[1]} (height x width)')
    table.add_column('part')
    for name in ('parameters', 'multiply-adds*', 'FLOPs', 'of these the scan'):
        table.add_column(name, justify='right')
    for name, count in counts.items():
        if name and (count.params or count.flops):
            table.add_row(name, *_cells(count))
    table.add_section()
    table.add_row('whole', *_cells(counts['']), style='bold')
    return table


def _cells(count: Complexity) -> tuple[str, ...]:
    return f'{count.params / 1e6:,.2f} M', _giga(count.macs), _giga(count.flops), _giga(count.scan_flops)


def main(argv: Sequence[str] | None = None) -> None:
    """Build, run once and print.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command or the config is wrong.
    """
    args = _parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_compiled_ops(cfg)
    model = build_model(cfg).to('cuda' if torch.cuda.is_available() else 'cpu')
    shape = default_shape(cfg) if args.shape is None else (args.shape[0], args.shape[-1])
    try:
        counts = count_complexity(model, forward_once(model, cfg, shape), args.depth)
    except UncountedScanError as error:
        raise UserError(str(error), 'unset MMVIM_SCAN_BACKEND and leave backend to its default', ENVIRONMENT) from error
    console = Console()
    console.print(_report(counts, shape, type(model).__name__))
    console.print(
        '* what papers and mmseg call FLOPs: a multiply-add is one, and the scan is added by its formula.\n'
        'Not counted: norms, activations, interpolation, operators of mmcv. An auxiliary head runs in '
        'training only.',
        highlight=False,
    )
