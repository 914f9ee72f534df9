"""Render the demo scenes: a licence-free data set in ADE20K's and in COCO's layout.

Example::

    python demo/make_scenes.py --out data/demo --train 400 --val 80 --size 128 192 --seed 0
"""

import argparse
import sys
from collections.abc import Sequence

try:
    from mmvim import cli
    from mmvim.engine.progress import progress_display
    from scenes import DemoSceneParams, write_demo_scenes
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmvim and what it needs: pip install -e . in its folder')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    default = DemoSceneParams()
    parser = cli.OneLineParser(description='Render the demo scenes in the layouts of ADE20K and COCO.')
    parser.add_argument('--out', default='data/demo', help='folder for the scenes (default: %(default)s)')
    parser.add_argument('--train', type=int, default=default.train, help='training scenes (default: %(default)s)')
    parser.add_argument('--val', type=int, default=default.val, help='validation scenes (default: %(default)s)')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        default=default.size,
        help='height and width in pixels (default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=default.seed, help='seed (default: %(default)s)')
    parser.add_argument(
        '--bands',
        type=int,
        default=default.bands,
        help='3, or 5 for arrays with near infrared and thermal bands beside the pictures (default: %(default)s)',
    )
    parser.add_argument('--force', action='store_true', help='replace scenes that were made with other parameters')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the scenes.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If a number is out of range or the folder cannot be used.
    """
    args = parse_args(argv)
    params = DemoSceneParams(args.train, args.val, tuple(args.size), args.seed, args.bands)
    try:
        with progress_display('Rendering', params.train + params.val) as advance:
            written = write_demo_scenes(args.out, params, args.force, lambda done, _: advance(done))
    except ValueError as error:
        raise cli.UserError(str(error), 'see --help') from error
    except FileExistsError as error:
        raise cli.UserError(str(error), 'nothing was changed') from error
    except (OSError, RuntimeError) as error:
        raise cli.UserError(
            f'cannot write to {args.out}: {error}', 'nothing was left there', cli.ENVIRONMENT
        ) from error
    print(f'{params.train} training and {params.val} validation scenes '
          f'{"written to" if written else "are already in"} {args.out}')  # fmt: skip


if __name__ == '__main__':
    cli.run_tool(main)
