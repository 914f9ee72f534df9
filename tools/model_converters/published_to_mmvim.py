"""Turn a published checkpoint of Vim or MambaVision into a plain one in mmvim's names, or only report on it.

    python tools/model_converters/published_to_mmvim.py vim_t_midclstok_76p1acc.pth vim_tiny.pth
    python tools/model_converters/published_to_mmvim.py hf://nvidia/MambaVision-T-1K/model.safetensors --check

Conversion is optional: configs and tools take published files as they are. A plain file has only the weights (a
publisher's also holds the optimizer, three times their size), opens without mmvim, and can be converted back by
mmvim_to_published.py. The same input always gives the same bytes.
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
        "Convert a published checkpoint to mmvim's names.",
        'file, http(s):// or hf://owner/repo/file',
        'the plain checkpoint to write',
    )
    parser.add_argument('--key', help="key of the container, e.g. model_ema. Defaults to 'state_dict', else 'model'")
    parser.add_argument('--prefix', help="what stands before the backbone's names. Defaults to what is found")
    parser.add_argument('--arch', help='raise unless it is this one, e.g. tiny')
    parser.add_argument(
        '--dense',
        action='store_true',
        help='the backbone alone, for dense prediction: without head, final norm and class token',
    )
    parser.add_argument(
        '--options',
        nargs='+',
        action=cli.OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help='what tensors do not tell, e.g. compat=upstream img_size=512 (mmvim/checkpoints/families)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, report and write.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If the file cannot be read or does not fit.
    """
    args = parse_args(argv)
    options = {'key': args.key, 'prefix': args.prefix, 'arch': args.arch, 'task': 'dense' if args.dense else None}
    twice = next((name for name in args.options if name in (*options, 'file')), None)
    if twice is not None:
        others = {'task': '--dense', 'file': 'FILE'}
        raise cli.UserError(
            f'--options {twice}=... is an argument of its own', f'give {others.get(twice, "--" + twice)}'
        )
    with cli.checkpoint_errors():
        if args.target is not None:
            checkpoints.check_target(args.target)
        converted, found = checkpoints.to_mmvim(args.source, **options, **args.options)
        print(found.report.text())
        print(f'backbone = {found.backbone}')
        if args.target is not None:
            checkpoints.save_file(converted, args.target)
            print(f'wrote {args.target}')


if __name__ == '__main__':
    cli.run_tool(main)
