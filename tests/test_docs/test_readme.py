"""What the README and the pages show can be run as it stands there."""

import contextlib
import io
import re

import pytest
from pages import ROOT, code, pages

README = (ROOT / 'README.md').read_text('utf-8')
PROGRAMS = [block for block in code(README, 'python') if block.startswith('import ')]  # the others are configs
COMMANDS = [
    (page.relative_to(ROOT).as_posix(), *match)
    for page in pages()
    for block in code(page.read_text('utf-8'), 'shell')
    for match in re.findall(r'^mmvim (\w+) ([\w\-/.]+)?', block, re.MULTILINE)
]


def test_the_readme_is_short():
    assert len(README.splitlines()) < 120


def test_the_first_screen_shows_python():
    assert PROGRAMS and README.index(PROGRAMS[0]) < README.index('![')


@pytest.mark.parametrize('program', PROGRAMS)
def test_programs_print_what_their_comments_say(program):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, 'README.md', 'exec'), {})
    expected = [line.removeprefix('# ') for line in program.splitlines() if line.startswith('# ')]
    assert expected and printed.getvalue().splitlines() == expected


def test_commands_name_configs_that_are_there():
    """A config is named without its folder and ``.py``, or written by the page itself: its first line has the name."""
    names = {path.stem for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
    named = {(page, name) for page, verb, name in COMMANDS if verb in ('train', 'test', 'config', 'samples', 'flops')}
    unknown = {(page, name) for page, name in named if name not in names and name != 'mine.py'}
    assert len(named) > 5
    assert {(page, name) for page, name in unknown if f'\n# {name}\n' not in (ROOT / page).read_text('utf-8')} == set()


def test_commands_are_there():
    folder = ROOT / 'mmvim/cli/commands'
    assert {verb for _, verb, _ in COMMANDS} <= {path.stem for path in folder.glob('*.py')}
