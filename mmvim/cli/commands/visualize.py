"""Draw scan orders, receptive fields, scans as attention, step sizes, feature maps and what speaks for a class.

    mmvim visualize paths --size 8 12 --picture street.png
    mmvim visualize field Vim:tiny --out-indices 0 11 23 --checkpoint vim_t_midclstok_76p1acc.pth
    mmvim visualize attention upernet_vim_t_ade20k --checkpoint iter_160000.pth --picture street.png --at 200 310

docs/visualize.md shows what comes out.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmvim.analysis.visualize import panels
from mmvim.analysis.visualize.figure import Panel, draw_panels, in_rows
from mmvim.analysis.visualize.grad_cam import class_map
from mmvim.analysis.visualize.page import write_page
from mmvim.analysis.visualize.receptive import receptive_fields
from mmvim.analysis.visualize.record import record_scans
from mmvim.analysis.visualize.scan_paths import draw_scan_paths, example_orders
from mmvim.cli.commands import command_parser
from mmvim.cli.errors import UserError
from mmvim.cli.pictures import (
    add_model_arguments,
    add_picture_arguments,
    as_input,
    load_backbone,
    load_backbones,
    load_picture,
    load_whole,
)
from mmvim.deploy.drafts import replacing

KINDS = {
    'paths': 'Draw scan orders over a map, side by side.',
    'page': 'Write scan orders as one HTML page with a slider for the size of the map.',
    'field': 'Draw how far the outputs of a backbone see: effective receptive fields, before and after training.',
    'attention': "Draw what each cell contributes to a pixel's cell through the scan, direction by direction.",
    'delta': 'Draw with which step size the scan writes each cell into its state.',
    'features': 'Draw the principal components of the maps that a backbone returns.',
    'gradcam': 'Draw what in a feature map speaks for a class.',
}
_CELLS = (8, 12)
_PIXELS = (224, 224)


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('visualize')
    kinds = parser.add_subparsers(dest='kind', metavar='KIND', required=True)
    parsers = {name: kinds.add_parser(name, help=text, description=text) for name, text in KINDS.items()}
    for name in ('paths', 'page'):
        parsers[name].add_argument(
            '--orders',
            nargs='+',
            metavar='NAME',
            help='scan orders, e.g. row window4 hilbert. Defaults to an example of all that are registered',
        )
        parsers[name].add_argument('--picture', metavar='FILE', help='to lie below. Defaults to none')
    parsers['paths'].add_argument(
        '--size', type=int, nargs=2, default=_CELLS, metavar=('H', 'W'), help='cells of the map. Defaults to 8 12'
    )
    parsers['paths'].add_argument('--reverse', action='store_true', help='draw each order backwards, too')
    parsers['paths'].add_argument('--columns', type=int, default=0, help='panels a row. Defaults to as many as fit')
    parsers['page'].add_argument(
        '--largest', type=int, default=18, help='cells of the longer side of the largest map. Defaults to 18'
    )
    for name in ('field', 'attention', 'delta', 'features', 'gradcam'):
        add_model_arguments(parsers[name], weights=name == 'gradcam')
        add_picture_arguments(parsers[name], required=name != 'field')
    parsers['field'].add_argument(
        '--noise', type=int, default=8, help='pictures of noise to average over if there is no --picture. Defaults to 8'
    )
    parsers['field'].add_argument(
        '--at',
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=('Y', 'X'),
        help="the outputs' cell, as shares of height and width. Defaults to 0.5 0.5, the middle",
    )
    parsers['attention'].add_argument(
        '--at', type=int, nargs=2, metavar=('Y', 'X'), help='the pixel, of the resized picture. Defaults to the middle'
    )
    for name in ('attention', 'delta'):
        parsers[name].add_argument(
            '--layers',
            nargs='+',
            default=(),
            metavar='LAYER',
            help='layers that scan, by number (negative from the end) or name. Defaults to first, middle and last',
        )
    parsers['gradcam'].add_argument('--label', type=int, help='the class. Defaults to the predicted one')
    parsers['gradcam'].add_argument(
        '--output', type=int, default=-1, help="which of the backbone's maps. Defaults to -1, the last"
    )
    for name, each in parsers.items():
        file = f'{name}.{"html" if name == "page" else "png"}'
        each.add_argument('--out', default=file, metavar='FILE', help='what to write. Defaults to %(default)s')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the command line says.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the command, a picture, the config or a checkpoint is wrong.
    """
    args = _parse_args(argv)
    folder, suffix = Path(args.out).parent, '.html' if args.kind == 'page' else '.png'
    if Path(args.out).suffix != suffix:
        raise UserError(
            f'--out {args.out} does not end in {suffix}', f'give a name that does, such as {args.kind}{suffix}'
        )
    if not folder.is_dir():
        raise UserError(f'--out {args.out}: there is no folder {folder}', 'make it, or give another')
    out = args.out
    try:
        with replacing(out) as draft:
            args.out = draft
            _DRAW[args.kind](args)
    except ValueError as error:  # what the functions of mmvim.analysis refuse
        problem, _, remedy = str(error).partition('; ')
        raise UserError(problem, remedy or f'see mmvim visualize {args.kind} --help') from error
    print(out)


def _paths(args: argparse.Namespace) -> None:
    picture = None if args.picture is None else load_picture(args.picture, None)
    orders = args.orders or example_orders(*args.size)
    if args.reverse:
        orders = [name for stem in orders for name in (stem, f'{stem}_reverse')]
    height, width = args.size
    draw_scan_paths(args.out, orders, height, width, picture, columns=args.columns)


def _page(args: argparse.Namespace) -> None:
    picture = None if args.picture is None else load_picture(args.picture, None)
    write_page(args.out, args.orders or example_orders(*_CELLS), picture, args.largest)


def _weights(args: argparse.Namespace) -> str:
    return 'untrained' if args.checkpoint is None else Path(args.checkpoint).name


def _field(args: argparse.Namespace) -> None:
    if args.noise < 1:
        raise UserError(f'--noise {args.noise} must be at least 1', 'leave it out for 8')
    subjects = [subject for subject in load_backbones(args) if subject is not None]
    rows = []
    for subject, weights in zip(subjects, ('untrained', 'trained'), strict=False):
        if args.picture is None:
            generator = torch.Generator().manual_seed(args.seed)
            channels = len(subject.recipe['mean'])
            pictures = torch.randn(args.noise, channels, *(args.size or _PIXELS), generator=generator)
        else:
            pictures = as_input(load_picture(args.picture, args.size), subject.recipe)
        fields = receptive_fields(subject.model, pictures, tuple(args.at))
        indices = args.out_indices or getattr(subject.model, 'out_indices', range(len(fields)))
        names = [f'output {index}, {weights}' for index in indices]
        rows.append(panels.field_panels(fields, names))
    source = 'a picture' if args.picture else f'{args.noise} pictures of noise'
    shape = tuple(pictures.shape[2:])
    draw_panels(
        args.out,
        rows,
        f'{subjects[0].name}: effective receptive field of one cell (circle)',
        'gradient, share of the largest',
        log_floor=1e-4,
        footer=f'{source}, {shape[0]} x {shape[1]} pixels; weights: {_weights(args)}; squares around the circle',
    )


def _attention(args: argparse.Namespace) -> None:
    picture = load_picture(args.picture, args.size)
    subject = load_backbone(args)
    height, width = picture.shape[:2]
    at = (height // 2, width // 2) if args.at is None else tuple(args.at)
    layers = panels.by_layer(record_scans(subject.model, as_input(picture, subject.recipe)), args.layers)
    draw_panels(
        args.out,
        panels.attention_panels(layers, at, picture),
        f'{subject.name}: what each cell gives to the cell at row {at[0]}, column {at[1]} (circle)',
        'share of the largest of the other cells',
        log_floor=1e-3,
        footer=f'mean over channels; rows: layers, columns: directions; hatched: outside of the window; '
        f'weights: {_weights(args)}',
    )


def _delta(args: argparse.Namespace) -> None:
    picture = load_picture(args.picture, args.size)
    subject = load_backbone(args)
    layers = panels.by_layer(record_scans(subject.model, as_input(picture, subject.recipe)), args.layers)
    draw_panels(
        args.out,
        panels.delta_panels(layers, picture),
        f'{subject.name}: step size delta, with which the scan writes a cell',
        'from the smallest to the largest of the panel',
        footer=f'mean over channels; rows: layers, columns: directions; weights: {_weights(args)}',
    )


def _features(args: argparse.Namespace) -> None:
    picture = load_picture(args.picture, args.size)
    subject = load_backbone(args)
    with torch.no_grad():
        maps = subject.model(as_input(picture, subject.recipe))
    maps = [maps] if isinstance(maps, torch.Tensor) else list(maps)
    if any(features.ndim != 4 for features in maps):
        raise ValueError('the backbone returns no maps; set --cfg-options model.out_type=featmap')
    indices = args.out_indices or getattr(subject.model, 'out_indices', range(len(maps)))
    draw_panels(
        args.out,
        panels.feature_panels(maps, [f'output {index}' for index in indices], picture),
        f'{subject.name}: principal components of its maps',
        'component, from its smallest to its largest',
        footer=f'above as red, green and blue; below the first alone; weights: {_weights(args)}',
    )


def _gradcam(args: argparse.Namespace) -> None:
    picture = load_picture(args.picture, args.size)
    subject = load_whole(args)
    is_segmentor = hasattr(subject.model, 'decode_head')
    forward = (lambda x: subject.model(x, mode='tensor')) if hasattr(subject.model, 'data_preprocessor') else None
    found = class_map(subject.model, as_input(picture, subject.recipe), args.label, args.output, forward)
    name = subject.classes[found.label] if subject.classes else ''
    what = f'class {found.label}' + f' ({name})' * bool(name)
    shape = tuple(found.values.shape)
    shown = [Panel('picture', picture=picture), Panel(what, found.values.numpy(), picture)]
    if is_segmentor:
        where = (found.scores.argmax(0) == found.label).double().numpy()
        shown.insert(1, Panel('predicted to be of it', where, picture))
    draw_panels(
        args.out,
        in_rows(shown, 3),
        f'{subject.name}: what speaks for {what}',
        'share of the largest',
        footer=f'Grad-CAM on a map of {shape[0]} x {shape[1]} cells; '
        f'weights: {_weights(args) if args.checkpoint or is_segmentor else subject.name}',
    )


_DRAW: dict[str, Callable[[Any], None]] = {
    'paths': _paths,
    'page': _page,
    'field': _field,
    'attention': _attention,
    'delta': _delta,
    'features': _features,
    'gradcam': _gradcam,
}
