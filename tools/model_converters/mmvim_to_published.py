"""Turn a checkpoint in mmvim's names back into its publisher's layout.

    python tools/model_converters/mmvim_to_published.py vim_tiny.pth vim_t.pth

A file written by published_to_mmvim.py gets back the tensors, names, order and container that it was made from. Any
other checkpoint of an OpenMMLab model is only renamed: say what it is with --family and --kind.
"""

import argparse
import sys
from collections.abc import Sequence

try:
    from mmvim import checkpoints, cli
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.ConversionParser(
        "Convert a checkpoint in mmvim's names to its publisher's.",
        'checkpoint in the names of mmvim',
        "what to write, in the publisher's layout",
    )
    parser.add_argument('--family', choices=('vim', 'mambavision'), help='whose names. Defaults to what FILE says')
    parser.add_argument(
        '--kind',
        choices=('classifier', 'segmentor', 'detector', 'backbone'),
        help='what FILE is a checkpoint of. Defaults to what it says',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, report and write.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the file cannot be read, or its publisher's tensors are not in it.
    """
    args = parse_args(argv)
    with cli.checkpoint_errors():
        if args.target is not None:
            checkpoints.check_target(args.target)
        container = checkpoints.from_mmvim(args.source, args.family, args.kind)
        key = next(iter(container)) if len(container) == 1 else ''
        names = container[key] if key else container
        print(f'{args.source}: {len(names)} tensors' + (f' under {key!r}' if key else ''))
        if args.target is not None:
            checkpoints.save_file(container, args.target)
            print(f'wrote {args.target}')


if __name__ == '__main__':
    cli.run_tool(main)
