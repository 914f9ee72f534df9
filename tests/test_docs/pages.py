"""The Markdown pages of the repository, their code and their links."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
FOLDERS = ('.github', 'configs', 'demo', 'docs', 'requirements', 'tests', 'tools')


def pages() -> list[Path]:
    """Every page."""
    below = (page for folder in FOLDERS for page in (ROOT / folder).rglob('*.md'))
    toy = ROOT / 'tests/toy/README.md'  # to be put elsewhere by a test
    return sorted({*ROOT.glob('*.md'), *below} - {toy})


def code(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return [block for name, block in FENCED.findall(text) if name == language]


def links(text: str) -> list[str]:
    """The targets of links and pictures, those in code left out."""
    prose = re.sub(r'`[^`\n]*`', '', FENCED.sub('', text))
    return re.findall(r'\]\(([^)\s]+)\)', prose)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings."""
    found: dict[str, int] = {}
    for heading in re.findall(r'^#+ +(.+?) *$', FENCED.sub('', text), re.MULTILINE):
        words = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
        name = re.sub(r'[^\w\- ]', '', words.lower()).replace(' ', '-')
        found[name] = found.get(name, 0) + 1
    return {name if i == 0 else f'{name}-{i}' for name, times in found.items() for i in range(times)}


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere, to a file or to a heading; addresses on the web are not looked up."""
    found = []
    for target in links(text):
        if target.startswith(('https://', 'http://')):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        there = file.is_relative_to(ROOT) and file.exists()
        if there and anchor:
            there = anchor in anchors(text if file == page else file.read_text('utf-8'))
        if not there:
            found.append(target)
    return found
