"""Turn a published checkpoint of a family into a plain one in mmvim's names, or back, or only report on it.

    mmvim convert vim_t_midclstok_76p1acc.pth vim_tiny.pth
    mmvim convert hf://nvidia/MambaVision-T-1K/model.safetensors --check
    mmvim convert vim_tiny.pth vim_t.pth --to published

Conversion is optional: configs and tools take published files as they are. A plain file has only the weights (a
publisher's also holds the optimizer, three times their size), opens without mmvim, and can be converted back. The same
input always gives the same bytes.

The way back gives a file that was converted here the tensors, names, order and container that it was made from. Any
other checkpoint of an OpenMMLab model is only renamed: say what it is with --family and --kind.
"""

import argparse
from collections.abc import Sequence

from mmvim import checkpoints
from mmvim.checkpoints.families import FAMILIES
from mmvim.cli.arguments import ConversionParser, OptionsAction
from mmvim.cli.commands import COMMANDS
from mmvim.cli.errors import UserError
from mmvim.cli.weights import checkpoint_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Convert in the direction that ``--to`` names.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the file cannot be read or does not fit.
    """
    parser = ConversionParser(
        COMMANDS['convert'], 'file, http(s):// or hf://owner/repo/file', 'the checkpoint to write', prog='mmvim convert'
    )
    parser.add_argument(
        '--to', choices=('mmvim', 'published'), default='mmvim', help="whose names OUT has. Defaults to mmvim's"
    )
    options = {
        'mmvim': _add_reading(parser.add_argument_group('to mmvim')),
        'published': _add_naming(parser.add_argument_group('to published')),
    }
    args = parser.parse_args(argv)
    for to, actions in options.items():
        given = next((a for a in actions if getattr(args, a.dest) != a.default), None)
        if to != args.to and given is not None:
            parser.error(f'{given.option_strings[0]} is an option of --to {to}')
    (_to_mmvim if args.to == 'mmvim' else _to_published)(args)


def published_to_mmvim(argv: Sequence[str] | None = None) -> None:
    """Convert a published file to mmvim's names.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the file cannot be read or does not fit.
    """
    parser = ConversionParser(
        "Convert a published checkpoint to mmvim's names.",
        'file, http(s):// or hf://owner/repo/file',
        'the plain checkpoint to write',
    )
    _add_reading(parser)
    _to_mmvim(parser.parse_args(argv))


def mmvim_to_published(argv: Sequence[str] | None = None) -> None:
    """Convert a file in mmvim's names to its publisher's layout.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the file cannot be read, or its publisher's tensors are not in it.
    """
    parser = ConversionParser(
        "Convert a checkpoint in mmvim's names to its publisher's.",
        'checkpoint in the names of mmvim',
        "what to write, in the publisher's layout",
    )
    _add_naming(parser)
    _to_published(parser.parse_args(argv))


def _add_reading(parser: argparse._ActionsContainer) -> list[argparse.Action]:
    """Add the options that say how to read a published file."""
    return [
        parser.add_argument(
            '--key', help="key of the container, e.g. model_ema. Defaults to 'state_dict', else 'model'"
        ),
        parser.add_argument('--prefix', help="what stands before the backbone's names. Defaults to what is found"),
        parser.add_argument('--arch', help='raise unless it is this one, e.g. tiny'),
        parser.add_argument(
            '--dense',
            action='store_true',
            help='the backbone alone, for dense prediction: without head, final norm and class token',
        ),
        parser.add_argument(
            '--options',
            nargs='+',
            action=OptionsAction,
            default={},
            metavar='KEY=VALUE',
            help='what tensors do not tell, e.g. compat=upstream img_size=512 (mmvim/checkpoints/families)',
        ),
    ]


def _add_naming(parser: argparse._ActionsContainer) -> list[argparse.Action]:
    """Add the options that say whose names a file in mmvim's is to get."""
    return [
        parser.add_argument('--family', choices=tuple(FAMILIES), help='whose names. Defaults to what FILE says'),
        parser.add_argument(
            '--kind',
            choices=('classifier', 'segmentor', 'detector', 'backbone'),
            help='what FILE is a checkpoint of. Defaults to what it says',
        ),
    ]


def _to_mmvim(args: argparse.Namespace) -> None:
    options = {'key': args.key, 'prefix': args.prefix, 'arch': args.arch, 'task': 'dense' if args.dense else None}
    twice = next((name for name in args.options if name in (*options, 'file')), None)
    if twice is not None:
        others = {'task': '--dense', 'file': 'FILE'}
        raise UserError(f'--options {twice}=... is an argument of its own', f'give {others.get(twice, "--" + twice)}')
    with checkpoint_errors():
        if args.target is not None:
            checkpoints.check_target(args.target)
        converted, found = checkpoints.to_mmvim(args.source, **options, **args.options)
        print(found.report.text())
        print(f'backbone = {found.backbone}')
        if args.target is not None:
            checkpoints.save_file(converted, args.target)
            print(f'wrote {args.target}')


def _to_published(args: argparse.Namespace) -> None:
    with checkpoint_errors():
        if args.target is not None:
            checkpoints.check_target(args.target)
        container = checkpoints.from_mmvim(args.source, args.family, args.kind)
        key = next(iter(container)) if len(container) == 1 else ''
        names = container[key] if key else container
        print(f'{args.source}: {len(names)} tensors' + (f' under {key!r}' if key else ''))
        if args.target is not None:
            checkpoints.save_file(container, args.target)
            print(f'wrote {args.target}')
