"""Print a config as one file without bases, to change it, or for tools that do not import mmvim.

    mmvim config upernet_vim_t_ade20k > mine.py

MMSegmentation's and MMDetection's own tools take the file as it is: types such as ``mmvim.Vim`` need no import.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmvim import __version__
from mmvim.cli.commands import command_parser
from mmvim.cli.config import read_config
from mmvim.cli.errors import UserError
from mmvim.cli.recipes import MIM, find_config


def main(argv: Sequence[str] | None = None) -> None:
    """Merge and print.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If there is no such config, or it cannot be read.
    """
    parser = command_parser('config')
    parser.add_argument('config', metavar='NAME', help="the name of one of mmvim's configs, or a file")
    sys.stdout.write(_flatten(parser.parse_args(argv).config))


def _flatten(name: str) -> str:
    """Return the text of a config with its bases merged into it."""
    path, cfg = find_config(name), read_config(name)
    origin = path.relative_to(MIM).as_posix() if path.is_relative_to(MIM) else path.name
    text = f'# {origin} with its bases merged into it, by `mmvim config` of mmvim {__version__}.\n{cfg.pretty_text}'
    if not _stands_for(text, cfg):
        raise UserError(f'config {path.name} holds values that no text stands for', 'inherit it instead')
    return text


def _stands_for(text: str, cfg: Config) -> bool:
    """Check whether MMEngine reads the same config from a text: not, for example, where a number is infinite."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'config.py'
        path.write_text(text, 'utf-8')
        try:
            return Config.fromfile(path).to_dict() == cfg.to_dict()
        except (NameError, SyntaxError):
            return False
