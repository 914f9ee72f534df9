"""Write the tables of models and of published files, from the metafiles, into the pages.

::

    python docs/make_tables.py            # write every table anew
    python docs/make_tables.py --check    # only name the pages that are not current

A table stands between two lines of a page, ``<!-- begin NAME (docs/make_tables.py) -->`` and ``<!-- end NAME -->``, and
is not edited by hand. NAME is 'families', 'files', or a metric as in ``Metadata.Published``: 'mIoU', 'PQ', 'top-1',
'box AP / mask AP', 'box AP'. In the README of a family a table has that family's rows only. A new family needs only its
metafile.
"""

import argparse
import functools
import itertools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r'^<!-- begin (.+?) \(docs/make_tables\.py\) -->\n(.*?)^<!-- end \1 -->$', re.MULTILINE | re.DOTALL)
BEGIN = re.compile(r'^<!-- begin .*make_tables', re.MULTILINE)  # a line of this script, well formed or not
METRICS = {  # by data set
    'mIoU': 'ADE20K',
    'box AP / mask AP': 'COCO',
    'box AP': 'COCO',
    'PQ': 'COCO',
    'top-1': 'ImageNet-1k',
}
HUB = 'https://huggingface.co/'
SITES = {'https://arxiv.org/': 'paper', 'https://github.com/': "authors' repository"}


@functools.cache
def metafiles() -> dict[str, dict]:
    """Return the metafiles of ``model-index.yml`` by their paths."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text('utf-8'))
    return {path: yaml.safe_load((ROOT / path).read_text('utf-8')) for path in index['Import']}


def collections(page: str) -> list[dict]:
    """Return the families that a page is about: in a family's README itself, elsewhere all."""
    found = [entry for metafile in metafiles().values() for entry in metafile['Collections']]
    return [entry for entry in found if entry['README'] == page] or found


def models(page: str, metric: str = '') -> list[dict]:
    """Return the entries of the configs that a page is about, of one metric if it is given."""
    names = {entry['Name'] for entry in collections(page)}
    found = (entry for metafile in metafiles().values() for entry in metafile['Models'])
    kept = [entry for entry in found if entry['In Collection'] in names]
    return [entry for entry in kept if metric in ('', entry['Metadata']['Published']['metric'])]


@functools.cache
def short_names() -> dict[str, str]:
    """Return the one-line entries that stand in ``configs/`` itself, by the path of the config that they inherit."""
    found = {}
    for path in (ROOT / 'configs').glob('*.py'):
        base = re.search(r"^_base_ = '\./(.+)'$", path.read_text('utf-8'), re.MULTILINE)
        if base:
            found[f'configs/{base[1]}'] = path.stem
    return found


def link(text: str, target: str, page: str) -> str:
    """Return a link from a page to a file of the repository."""
    return f'[{text}]({Path(os.path.relpath(ROOT / target, (ROOT / page).parent)).as_posix()})'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    first, *rest = (f'| {" | ".join(row)} |\n' for row in (head, *rows))
    return ''.join([first, '|' + '-|' * len(head) + '\n', *rest])


def value_of(published: dict) -> str:
    """Return a published figure, 'none' where there is none."""
    value = published['value']
    if value is None:
        return 'none'
    return ' / '.join(map(str, value)) if isinstance(value, list) else str(value)


def source_of(published: dict) -> str:
    """Return where a published figure stands, or whose recipe it is that has none."""
    source = published['source']
    site = next((name for start, name in SITES.items() if source.startswith(start)), None)
    return f'[{site}]({source})' if site else source


def schedule_of(metadata: dict) -> str:
    """Return the length of a training and its batch."""
    unit = 'Epochs' if 'Epochs' in metadata else 'Iterations'
    return f'{metadata[unit]:,} {unit.lower()} of {metadata["Batch Size"]:,} images'


def models_table(metric: str, page: str) -> str:
    """Return the table of the configs that are judged by a metric."""
    rows = []
    for entry in models(page, metric):
        metadata = entry['Metadata']
        backbone, *method = metadata['Architecture']
        rows.append(
            (
                link(short_names().get(entry['Config'], entry['Name']), entry['Config'], page),
                backbone,
                ', '.join(method) or 'linear classifier',
                f'{metadata["Parameters"] / 1e6:.1f} M',
                schedule_of(metadata),
                value_of(metadata['Published']),
                source_of(metadata['Published']),
            )
        )
    head = ('config', 'backbone', 'method', 'parameters', 'training', f'{metric}, published', 'source, or whose recipe')
    return table(head, rows)


def place_of(address: str) -> str:
    """Return a link to where a file is: a repository on the Hugging Face hub, or a release on GitHub."""
    name = unquote(address).removeprefix(HUB).removeprefix('https://github.com/').replace('/releases/tag/', ' ')
    return f'[{name}]({address})'


def files_table(page: str) -> str:
    """Return the table of the published files of a family, a line for the files of the same weights."""
    files = [entry for family in collections(page) for entry in family['Metadata'].get('Published Files', ())]
    rows = []
    for (address, weights, reported), group in itertools.groupby(
        files, lambda entry: (entry['Repository'], entry['Weights Alone'], entry['Reported'])
    ):
        same = list(group)
        stride = same[0].get('Backbone', {}).get('stride')
        names = ', '.join(f'`{entry["File"]}`' for entry in same) + (f' (stride {stride})' if stride else '')
        sizes = ', '.join(entry['Size'] for entry in same)
        rows.append((names, sizes, weights, place_of(address), reported.partition(' (')[0]))
    licences = '; '.join(dict.fromkeys(entry['License'] for entry in files))
    on_hub = all(entry['Repository'].startswith(HUB) for entry in files)
    place = 'repository on the Hugging Face hub' if on_hub else 'repository or release'
    head = ('file', 'size', 'weights alone, computed', place, 'reported')
    return f'{table(head, rows)}\nLicence: {licences}.\n'


def span(values: Iterable[Any]) -> str:
    """Return the lowest and the highest of the published values."""
    texts = list(dict.fromkeys(value_of({'value': value}) for value in sorted(v for v in values if v is not None)))
    return ' to '.join(texts[:: max(len(texts) - 1, 1)]) or '-'


def families_table(page: str) -> str:
    """Return the table of the families: a line each, with the metrics for which anybody published a figure."""
    published = [entry['Metadata']['Published'] for entry in models(page)]
    # One family has detectors of boxes alone, too: no column for them.
    metrics = [
        name for name in METRICS if name != 'box AP' and any(p['metric'] == name and p['value'] for p in published)
    ]
    rows = []
    for family in collections(page):
        own = [entry['Metadata'] for entry in models(page) if entry['In Collection'] == family['Name']]
        sizes = dict.fromkeys(metadata['Architecture'][0].rpartition('-')[2] for metadata in own)
        figures = [metadata['Published'] for metadata in own]
        spans = [span(p['value'] for p in figures if p['metric'] == metric) for metric in metrics]
        summary = family['Metadata']['Summary']
        rows.append((link(family['Name'], family['README'], page), summary, ', '.join(sizes), *spans))
    return table(('family', 'what it is', 'sizes', *(f'{METRICS[metric]} {metric}' for metric in metrics)), rows)


def render(text: str, page: str) -> str:
    """Return the text of a page with its tables as they should be.

    Args:
        text: The page.
        page: Its path in the repository, with slashes.

    Raises:
        ValueError: If a table has a name that this script does not know, or a line that begins one has no end.
    """

    def write(block: re.Match) -> str:
        name = block[1]
        if name not in ('families', 'files', *METRICS):
            raise ValueError(f'{page}: no table is called {name!r}; there are families, files, {", ".join(METRICS)}')
        tables = {'families': families_table, 'files': files_table}
        new = tables[name](page) if name in tables else models_table(name, page)
        return f'<!-- begin {name} (docs/make_tables.py) -->\n\n{new}\n<!-- end {name} -->'

    if len(BEGIN.findall(text)) != len(BLOCK.findall(text)):
        begin, end = '<!-- begin NAME (docs/make_tables.py) -->', '<!-- end NAME -->'
        raise ValueError(f'{page}: each line "{begin}" needs its line "{end}" below it')
    return BLOCK.sub(write, text)


def pages() -> list[str]:
    """Return the pages that have tables."""
    found = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'configs').rglob('*.md')]
    return [page.relative_to(ROOT).as_posix() for page in sorted(found) if BEGIN.search(page.read_text('utf-8'))]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables, or with ``--check`` exit with an error that names the pages that are not current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; fail if a page is not current')
    args = parser.parse_args(argv)
    old = []
    for page in pages():
        text = (ROOT / page).read_text('utf-8')
        new = render(text, page)
        if new != text:
            old.append(page)
            if not args.check:
                (ROOT / page).write_text(new, 'utf-8')
    if args.check and old:
        sys.exit(f'error: tables are not current in {", ".join(old)}; run python docs/make_tables.py')
    print('\n'.join(f'{page}: {"written" if page in old else "current"}' for page in pages()))


if __name__ == '__main__':
    main()
