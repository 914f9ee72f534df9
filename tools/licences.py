#!/usr/bin/env python
"""Write requirements/LICENCES.md: under which licence each pinned package is, as its own metadata say.

    python tools/licences.py                          # of the packages of this environment; rows of others stay
    python tools/licences.py --path ../others           # and of a folder that `pip install --no-deps --target` filled
    python tools/licences.py --check                  # write nothing; the status is 1 if the table is not of these pins

The licence is the metadata's License-Expression, else its classifiers, else the title or the first line of License. A
pin of which neither an environment nor the table has the version is an error that names it.

It is for maintainers of mmvim, from a checkout.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'requirements'
TABLE = FOLDER / 'LICENCES.md'
PIN = re.compile(r'^([\w.-]+)==([\w.!+-]+)', re.MULTILINE)
TITLE = re.compile(r'(the )?(Apache|MIT|ISC|BSD|Mozilla Public|GNU [\w ]+) Licen[cs]e.{,20}', re.IGNORECASE)
ROW = re.compile(r'^\| ([\w.-]+) \| ([\w.!+-]+) \| ([\w.]+) \| (.*) \|$', re.MULTILINE)
HEAD = """# Licences of the pinned packages

As their own metadata state them; `tools/licences.py` writes this table. A test fails where it is not of the pins beside
it, or where a package is under the GPL or the AGPL (but for docutils, whose mode for Emacs is, and which only makes the
documentation site). mmvim itself is under Apache-2.0, and contains none of them.

| package | version | pinned in | licence |
|-|-|-|-|
"""


def normal(name: str) -> str:
    """Return a distribution's name as indices compare it."""
    return re.sub(r'[-_.]+', '-', name).lower()


def pins() -> dict[str, tuple[str, str, str]]:
    """Return name, version and file of each pin, by normal name."""
    return {
        normal(name): (name, version, path.name)
        for path in sorted(FOLDER.glob('*.txt'))
        for name, version in PIN.findall(path.read_text('utf-8'))
    }


def licence_of(found: Distribution) -> str:
    """Return what a distribution says of its licence, on one line; '' if it says nothing."""
    metadata = found.metadata
    if 'License-Expression' in metadata:
        return metadata['License-Expression']
    named = [value for value in metadata.get_all('Classifier', []) if value.startswith('License ::')]
    short = [value.rpartition(' :: ')[2] for value in named if value != 'License :: OSI Approved']
    text = str((metadata.get_all('License') or [''])[0]).strip()
    titles = [line.strip() for line in text.splitlines() if TITLE.fullmatch(line.strip())]
    return ', '.join(dict.fromkeys(short)) or next(iter([*titles, *text.splitlines()]), '')[:80]


def rows(found: Iterable[Distribution], before: str) -> tuple[list[str], list[str]]:
    """Return the lines of the table, and the pins of which nothing is known.

    Args:
        found: The distributions that are here.
        before: The table so far.
    """
    here = {(normal(one.metadata['Name']), one.version.partition('+')[0]): one for one in found if one.metadata['Name']}
    known = {(normal(name), version): licence for name, version, _, licence in ROW.findall(before)}
    lines, unknown = [], []
    for key, (name, version, file) in sorted(pins().items()):
        own = here.get((key, version))
        licence = (licence_of(own) if own is not None else '') or known.get((key, version), '')
        lines.append(f'| {name} | {version} | {file} | {licence} |')
        if not licence:
            unknown.append(f'{name}=={version}')
    return lines, unknown


def main() -> int:
    """Write the table, or compare it with the pins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--path', nargs='+', default=[], help='more folders with distributions')
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args()
    gone = next((path for path in args.path if not Path(path).is_dir()), None)
    if gone is not None:
        parser.error(f'--path {gone} is no folder; give one that pip install --target has filled')
    before = TABLE.read_text('utf-8') if TABLE.exists() else ''
    lines, unknown = rows([*distributions(), *distributions(path=args.path)], before)
    if unknown:
        print(f'error: nothing is known of {", ".join(unknown)}; install them and repeat this', file=sys.stderr)
        return 1
    text = HEAD + '\n'.join(lines) + '\n'
    if args.check:
        print(
            'the table is of these pins' if text == before else 'the table is of other pins; python tools/licences.py'
        )
        return int(text != before)
    partial = TABLE.with_name(f'{TABLE.name}.partial')  # rows that are lost are those of packages that are not here
    partial.write_text(text, 'utf-8')
    partial.replace(TABLE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
