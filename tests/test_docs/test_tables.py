"""The tables of the pages are those that docs/make_tables.py writes, and name every model."""

import pytest
from checkout import load_module
from pages import ROOT

tables = load_module(ROOT / 'docs/make_tables.py')
PAGES = tables.pages()


@pytest.mark.parametrize('page', PAGES)
def test_tables_are_current(page):
    text = (ROOT / page).read_text('utf-8')
    assert tables.render(text, page) == text, 'run python docs/make_tables.py'


def test_every_config_of_the_metafiles_is_in_the_table_of_models():
    lines = (ROOT / 'docs/models.md').read_text('utf-8').splitlines()
    for entry in tables.models('docs/models.md'):
        (row,) = [line for line in lines if line.startswith('|') and f'](../{entry["Config"]})' in line]
        assert f'| {tables.value_of(entry["Metadata"]["Published"])} |' in row


def test_every_family_is_in_the_readme_and_has_its_own_tables():
    families = tables.collections('README.md')
    readme = (ROOT / 'README.md').read_text('utf-8')
    for family in families:
        assert f'| [{family["Name"]}]({family["README"]}) |' in readme
        own = (ROOT / family['README']).read_text('utf-8')
        wanted = {entry['Metadata']['Published']['metric'] for entry in tables.models(family['README'])} - {'top-1'}
        wanted |= {'files'} if family['Metadata'].get('Published Files') else set()
        assert wanted <= {match[1] for match in tables.BLOCK.finditer(own)}, family['Name']


def test_a_change_is_seen(capsys, monkeypatch):
    page = 'docs/models.md'
    text = (ROOT / page).read_text('utf-8')
    changed = text.replace('| 44.9 |', '| 99.9 |')
    assert changed != text and tables.render(changed, page) == text
    monkeypatch.setattr(tables, 'render', lambda *_: changed)
    with pytest.raises(SystemExit, match=r'not current in .*docs/models\.md.*run python docs/make_tables\.py'):
        tables.main(['--check'])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('\n<!-- begin mAP (docs/make_tables.py) -->\n<!-- end mAP -->\n', "'mAP'; there are families, files, mIoU"),
        ('\n<!-- begin mIoU (docs/make_tables.py) -->\n<!-- end PQ -->\n', 'needs its line "<!-- end NAME -->"'),
    ],
)
def test_wrong_markers_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        tables.render(text, 'docs/models.md')


@pytest.mark.parametrize(
    ('address', 'name'),
    [
        ('https://huggingface.co/owner/model', 'owner/model'),
        ('https://github.com/owner/model/releases/tag/%23v2', 'owner/model #v2'),
    ],
)
def test_places_of_files(address, name):
    assert tables.place_of(address) == f'[{name}]({address})'


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ([44.9, None, 41.0], '41.0 to 44.9'),
        ([41.0, 41.0], '41.0'),
        ([[52.8, 45.7], [51.1, 44.3], [52.3, 45.2]], '51.1 / 44.3 to 52.8 / 45.7'),
        ([None], '-'),
    ],
)
def test_ranges(values, text):
    assert tables.span(values) == text
