"""The options that the tools share; they mean what they mean in MMSegmentation's and MMDetection's own tools."""

import argparse
import ast
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.config import DictAction

from mmvim.cli.commands import command_parser
from mmvim.cli.errors import OneLineParser

DTYPES = ('float32', 'bf16')
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
# A dict as a value or within a list; a brace inside a text, as in filename_tmpl=epoch_{}.pth, is none.
_DICT = re.compile(r'(^|[\[(,])\s*(\{|dict\()')

AMP_KINDS = ('fp16', 'bf16')
_AMP_WORDS = re.compile(r'(fp|bf|b?float|half)\d*$')


class OptionsAction(DictAction):
    """An action that reads ``KEY=VALUE ...`` into a dict as MMEngine's does, but never ends in a traceback.

    Examples:
        >>> from mmvim.cli import OneLineParser, OptionsAction
        >>> parser = OneLineParser()
        >>> _ = parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
        >>> parser.parse_args(['--cfg-options', 'model.depth=2', 'size=[64,64]']).cfg_options
        {'model.depth': 2, 'size': [64, 64]}
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Merge ``values`` into the option's dict; a value that cannot be read is a usage error."""
        for value in values or ():
            key, given, content = str(value).partition('=')
            content = content.strip()
            if _DICT.search(content):  # some end in a RecursionError of MMEngine's, some as a text
                parser.error(
                    f'{option_string} {value!r}: a dict cannot be given on the command line; set what is in it one by '
                    f'one, as in {key or "KEY"}.0.NAME=VALUE or {key or "KEY"}.NAME=VALUE, or write it into a config '
                    'that inherits this one'
                )
            if not key or not given or _unbalanced(content):
                parser.error(f'{option_string} {value!r} is not KEY=VALUE (brackets must balance)')
            if ' ' in content:  # which MMEngine takes out, also of the path of a folder
                self._set(namespace, key, _with_blanks(content))
                continue
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError, IndexError, RecursionError):
                parser.error(f'{option_string} {value!r} is not KEY=VALUE (brackets must balance)')

    def _set(self, namespace: argparse.Namespace, key: str, value: Any) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), key: value})


def _unbalanced(content: str) -> bool:
    """Check whether a value begins with a bracket and does not end with the one that closes it."""
    return content[:1] in ('[', '(') and content[-1:] != {'[': ']', '(': ')'}[content[0]]


def _with_blanks(content: str) -> Any:
    """Return a list, a tuple or a quoted text as Python reads them, and any other value with blanks as a text."""
    try:
        return ast.literal_eval(content)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval documents
        return content


class ConversionParser(OneLineParser):
    """A parser of FILE and either OUT or ``--check``.

    Args:
        description: What the tool does.
        source: Help on FILE.
        target: Help on OUT.
        prog: The tool's name. Defaults to None, that of its file.

    Examples:
        >>> from mmvim.cli import ConversionParser
        >>> parser = ConversionParser('Convert a checkpoint.', source='what to read', target='what to write')
        >>> args = parser.parse_args(['a.pth', 'b.pth'])
        >>> args.source, args.target, args.check
        ('a.pth', 'b.pth', False)
    """

    def __init__(self, description: str, source: str, target: str, prog: str | None = None) -> None:
        super().__init__(prog=prog, description=description)
        self.add_argument('source', metavar='FILE', help=source)
        self.add_argument('target', metavar='OUT', nargs='?', help=target)
        self.add_argument('--check', action='store_true', help='report only, write nothing')

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments; without exactly one of OUT and ``--check`` that is a usage error.

        Args:
            args: What to parse. Defaults to None, the command line.
            namespace: Where to put the values. Defaults to None, a new one.

        Returns:
            The namespace, with ``source``, ``target`` and ``check``.

        Raises:
            SystemExit: If the arguments are wrong.
        """
        parsed = super().parse_args(args, namespace)
        if (parsed.target is None) != parsed.check:
            self.error('give either OUT or --check')
        return parsed


def config_parser(command: str) -> OneLineParser:
    """Return the parser of a command, with ``config`` and ``--cfg-options``.

    Args:
        command: The command of ``mmvim``.

    Examples:
        >>> from mmvim.cli import config_parser
        >>> args = config_parser('train').parse_args(['vim.py', '--cfg-options', 'model.depth=2'])
        >>> args.config, args.cfg_options
        ('vim.py', {'model.depth': 2})
    """
    parser = command_parser(command)
    parser.add_argument(
        'config',
        metavar='CONFIG',
        help="config of mmseg or mmdet (default_scope decides): a file, or the name of one of mmvim's",
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. optim_wrapper.optimizer.lr=1e-4 model.decode_head.dropout_ratio=0. '
        'Lists and tuples: key="[a,b]" or key="(a,b)" without blanks. A misspelt key is an error',
    )
    return parser


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--launcher``, ``--local-rank`` and ``--check`` to a parser.

    Args:
        parser: The parser, changed in place.

    Examples:
        >>> from mmvim.cli import add_run_arguments, config_parser
        >>> parser = config_parser('train')
        >>> add_run_arguments(parser)
        >>> parser.parse_args(['vim.py', '--check']).launcher
        'none'
    """
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where logs, checkpoints and metrics go. Defaults to work_dir of the config, else work_dirs/<config name>',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='job launcher. Defaults to none')
    # torch.distributed.launch has passed both spellings over the years; torchrun passes neither.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--check', action='store_true', help='check the command, the config and the data, then stop')


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype`` to the parser of a tool that only computes predictions.

    Args:
        parser: The parser, changed in place.

    Examples:
        >>> from mmvim.cli import OneLineParser
        >>> from mmvim.cli.arguments import add_dtype_argument
        >>> parser = OneLineParser()
        >>> add_dtype_argument(parser)
        >>> parser.parse_args(['--dtype', 'bf16']).dtype
        'bf16'
    """
    parser.add_argument(
        '--dtype',
        choices=DTYPES,
        default='float32',
        help='what layers compute in; bf16 is bfloat16 by autocast, on CPUs too, and about twice as fast on processors '
        'that have it (mmdet: up to the features). Defaults to float32',
    )


def publish_local_rank(args: argparse.Namespace) -> None:
    """Put ``--local-rank`` into the environment, where MMEngine looks for it, unless the launcher has done so.

    Args:
        args: The parsed command line, with ``local_rank``.

    Examples:
        >>> import argparse, os
        >>> from unittest import mock
        >>> from mmvim.cli import publish_local_rank
        >>> with mock.patch.dict(os.environ, clear=True):
        ...     publish_local_rank(argparse.Namespace(local_rank=3))
        ...     os.environ['LOCAL_RANK']
        '3'
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def name_amp(argv: Sequence[str]) -> list[str]:
    """Return a command line in which ``--amp`` has its value: the word behind it if that is a precision, else fp16.

    So that ``--amp CONFIG`` goes on to mean what it meant when the option took no value.

    Args:
        argv: The words of the command line.

    Examples:
        >>> from mmvim.cli.arguments import name_amp
        >>> name_amp(['--amp', 'vim.py']), name_amp(['vim.py', '--amp', 'bf16'])
        (['--amp=fp16', 'vim.py'], ['vim.py', '--amp=bf16'])
    """
    words, named = list(argv), []
    while words:
        word = words.pop(0)
        if word == '--':
            return [*named, word, *words]
        if word in ('--am', '--amp'):
            word = f'--amp={words.pop(0)}' if words and _AMP_WORDS.match(words[0]) else '--amp=fp16'
        named.append(word)
    return named
