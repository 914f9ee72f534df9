"""Open a local web page that draws predictions on pictures.

    mmvim app upernet_vim_demo work_dirs/demo/iter_800.pth
    mmvim app upernet_vim_demo vim.pth upernet_mambavision_demo mambavision.pth --port 8000

Needs ``pip install "mmvim[demo]"``. The page is for this machine alone, unless ``--host`` says otherwise.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mmvim.analysis.overlay import OverlayPainter
from mmvim.cli.arguments import OptionsAction, add_dtype_argument
from mmvim.cli.commands import command_parser
from mmvim.cli.errors import UserError
from mmvim.cli.page import Painter, build_page, launch
from mmvim.cli.painter import add_painter_arguments, build_painter


def _parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('app')
    parser.add_argument(
        'models',
        metavar='CONFIG CHECKPOINT',
        nargs='+',
        help='models to choose from, each a config (a file, or the name of one of mmvim) and its checkpoint',
    )
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on. Defaults to %(default)s')
    parser.add_argument('--port', type=int, default=7860, help='Defaults to %(default)s')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='override settings of all configs'
    )
    add_painter_arguments(parser)
    add_dtype_argument(parser)
    args = parser.parse_args(argv)
    if len(args.models) % 2:
        parser.error(f'{args.models[-1]} lacks its checkpoint: give CONFIG CHECKPOINT for each model')
    if not 0 <= args.port < 65536:
        parser.error(f'--port {args.port} is not a port')
    return args


def _painter_of_colours(args: argparse.Namespace, config: str, checkpoint: str) -> OverlayPainter:
    """Build a model; one that takes other than colours is refused, as browsers show no other pictures."""
    painter = build_painter(args, config, checkpoint)
    if painter.loader is not None:
        raise UserError(
            f'{config} loads bands (mmvim.LoadImageBands), and the page takes pictures of three colours',
            'use mmvim demo, which reads GeoTIFF and .npy files',
        )
    return painter


def main(argv: Sequence[str] | None = None) -> None:
    """Check, build the first model, and serve the page.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, a config or a checkpoint is wrong, gradio is missing or the port is taken.
    """
    args = _parse_args(argv)
    models: dict[str, Callable[[], Painter]] = {}
    for config, checkpoint in zip(args.models[::2], args.models[1::2], strict=True):
        name = Path(config).stem
        name = name if name not in models else f'{name}, {checkpoint}'
        models[name] = partial(_painter_of_colours, args, config, checkpoint)
    page_models = dict(models)
    first = next(iter(models))
    painter = models[first]()  # so that what is wrong is said before the page opens
    page_models[first] = lambda: painter
    launch(build_page(page_models), args.host, args.port)
