"""Parameters and FLOPs of a model, the selective scan included, for configs of MMSegmentation and MMDetection.

    python tools/analysis_tools/get_flops.py configs/upernet_vim_t_ade20k.py --shape 512 512

Needs neither data nor a checkpoint. mmvim/analysis/flops.py says what is counted.
"""

import argparse
import sys
from collections.abc import Sequence

try:
    import torch
    from rich.console import Console
    from rich.table import Table

    import mmvim  # noqa: F401 makes ``mmvim::`` and ``mmseg::`` known to configs, so it must precede reading one
    from mmvim import cli
    from mmvim.analysis.flops import Complexity, UncountedScanError, count_complexity, default_shape, forward_once
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.config_parser('Count the parameters and floating-point operations of a model.')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar=('H', 'W'),
        help='size of the picture; one number for a square. Defaults to the training crop (mmseg) or 800 1280 (mmdet)',
    )
    args = parser.parse_args(argv)
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape {" ".join(map(str, args.shape))} is not one or two positive numbers')
    return args


def giga(number: int) -> str:
    """Return a number in billions, as text."""
    return f'{number / 1e9:,.2f} G'


def report(counts: dict[str, Complexity], shape: tuple[int, int], title: str) -> Table:
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
    return f'{count.params / 1e6:,.2f} M', giga(count.macs), giga(count.flops), giga(count.scan_flops)


def main(argv: Sequence[str] | None = None) -> None:
    """Build, run once and print.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command or the config is wrong.
    """
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_compiled_ops(cfg)
    model = cli.build_model(cfg).to('cuda' if torch.cuda.is_available() else 'cpu')
    shape = default_shape(cfg) if args.shape is None else (args.shape[0], args.shape[-1])
    try:
        counts = count_complexity(model, forward_once(model, cfg, shape))
    except UncountedScanError as error:
        raise cli.UserError(
            str(error), 'unset MMVIM_SCAN_BACKEND and leave backend to its default', cli.ENVIRONMENT
        ) from error
    console = Console()
    console.print(report(counts, shape, type(model).__name__))
    console.print(
        '* what papers and mmseg call FLOPs: a multiply-add is one, and the scan is added by its formula.\n'
        'Not counted: norms, activations, interpolation, operators of mmcv. An auxiliary head runs in '
        'training only.',
        highlight=False,
    )


if __name__ == '__main__':
    cli.run_tool(main)
