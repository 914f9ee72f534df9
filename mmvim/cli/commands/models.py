"""List the configs that come with mmvim, with the numbers that their publishers report.

    mmvim models vim ade20k

A number is the publisher's. mmvim's own runs are in docs/.
"""

import dataclasses
import json
from collections.abc import Sequence

from mmvim.cli.commands import command_parser
from mmvim.cli.recipes import published

_HEADER = ('config', 'data', 'metric', 'published', 'source')


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each config.

    Args:
        argv: The command line. Defaults to None, ``sys.argv``.

    Raises:
        UserError: If no config has all the words.
    """
    parser = command_parser('models')
    parser.add_argument('words', metavar='WORD', nargs='*', help='only rows with all of these, e.g. vim ade20k')
    parser.add_argument('--json', action='store_true', help='print a list of objects instead of a table')
    args = parser.parse_args(argv)
    recipes = published(args.words)
    if args.json:
        print(json.dumps([dataclasses.asdict(recipe) for recipe in recipes], indent=2))
        return
    rows = [_HEADER, *(recipe.cells() for recipe in recipes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
