"""Links between pages lead somewhere."""

import pytest
from pages import ROOT, anchors, broken, pages

PAGES = pages()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    assert broken(page, page.read_text('utf-8')) == []


def test_every_page_of_the_docs_is_in_their_index():
    index = (ROOT / 'docs/README.md').read_text('utf-8')
    assert [page.name for page in (ROOT / 'docs').glob('*.md') if f'({page.name})' not in index] == ['README.md']


def test_a_broken_link_is_seen():
    page = ROOT / 'docs/README.md'
    assert broken(page, '[a](models.md) [b](models.md#families) [c](#here)\n# Here\n') == []
    wrong = ['gone.md', 'models.md#gone', '#gone', '../../outside.md']
    assert broken(page, ' '.join(f'[x]({target})' for target in wrong)) == wrong
    assert broken(page, '```\n[x](gone.md)\n```\n`[x](gone.md)`') == []


def test_anchors_are_githubs():
    text = "# A `B`, c!\n## [Link](x.md) two\n## Same\n## Same\n```\n# not a heading\n```\n### What's new: 1.0\n"
    assert anchors(text) == {'a-b-c', 'link-two', 'same', 'same-1', 'whats-new-10'}
