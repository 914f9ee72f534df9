"""The options that the tools share, with the meanings MMSegmentation's and MMDetection's own tools give them."""

import argparse
import os
import sys
from typing import NoReturn

from mmengine.config import DictAction

from mmvim.engine.launch.errors import USAGE, is_main_process

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        if is_main_process():
            print(f'error: {message}; see {self.prog} --help', file=sys.stderr)
        raise SystemExit(USAGE)


class OptionsAction(DictAction):
    """``KEY=VALUE ...`` into a dict, as MMEngine's action, with an error where it would show a traceback."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values or ():
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError):
                parser.error(f'{option_string} {value!r} is not KEY=VALUE (brackets must balance)')


class ConversionParser(OneLineParser):
    """A parser of FILE and of either OUT or ``--check``.

    Args:
        description (str): What the tool does.
        source (str): Help on FILE.
        target (str): Help on OUT.
    """

    def __init__(self, description: str, source: str, target: str) -> None:
        super().__init__(description=description)
        self.add_argument('source', metavar='FILE', help=source)
        self.add_argument('target', metavar='OUT', nargs='?', help=target)
        self.add_argument('--check', action='store_true', help='report only, write nothing')

    def parse_args(self, args=None, namespace=None):
        """As the base class; a usage error unless one of OUT and ``--check`` is given."""
        parsed = super().parse_args(args, namespace)
        if (parsed.target is None) != parsed.check:
            self.error('give either OUT or --check')
        return parsed


def config_parser(description: str) -> OneLineParser:
    """A parser with ``config`` and ``--cfg-options``.

    Args:
        description (str): What the tool does.
    """
    parser = OneLineParser(description=description)
    parser.add_argument('config', metavar='CONFIG', help='config file of mmseg or mmdet (default_scope decides)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. optim_wrapper.optimizer.lr=1e-4 model.decode_head.dropout_ratio=0. '
        'Lists and tuples: key="[a,b]" or key="(a,b)" without blanks. A key that nothing reads is an error',
    )
    return parser


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--launcher``, ``--local-rank`` and ``--check``."""
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where logs, checkpoints and metrics go. Defaults to work_dir of the config, else work_dirs/<config name>',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='job launcher. Defaults to none')
    # torch.distributed.launch has passed both spellings over the years; torchrun passes neither.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--check', action='store_true', help='check the command, the config and the data, then stop')


def publish_local_rank(args: argparse.Namespace) -> None:
    """Put ``--local-rank`` into the environment, where MMEngine looks for it, unless the launcher has done so."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
