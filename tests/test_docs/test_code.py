"""Code and commands of every page: programs run, fragments are Python that names what there is, options exist."""

import contextlib
import io
import json
import re
import shlex

import pytest
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, TRANSFORMS, VISBACKENDS
from pages import ROOT, code, pages

import mmvim.registry

PUBLIC = json.loads((ROOT / 'tests/public_api.json').read_text('utf-8'))
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text('utf-8') for page in pages()}
BLOCKS = [(name, block) for name, text in PAGES.items() for block in code(text, 'python')]
PROGRAMS = [  # those that need no file
    (name, block)
    for name, block in BLOCKS
    if block.startswith('import torch') and not re.search(r'\.(pt2|onnx|jpg)\b', block) and name != 'README.md'
]
REGISTRIES = (MODELS, HOOKS, TRANSFORMS, OPTIM_WRAPPERS, VISBACKENDS, mmvim.registry.OPTIM_WRAPPER_CONSTRUCTORS)
# Commands of others, and options that stand for those of a reader's own script.
OTHERS = {'pip', 'source', 'python3', 'git', 'make', 'torchrun', 'mim', 'bash', 'docker', 'for', 'done', 'cp', 'mkdir'}


def commands(text):
    """Every command of a page's shell blocks: its words, comments left out, lines that go on joined."""
    for block in code(text, 'shell'):
        for line in re.sub(r'\\\n\s*', ' ', block).splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r'[A-Z_0-9]+=\S*', words[0]):
                words = words[1:]
            if words:
                yield words


def known_options(words):
    """The options of what a command starts, None if that is not mmvim's."""
    if words[0] == 'mmvim' and len(words) > 1 and not words[1].startswith('-'):
        start, where = f'mmvim {words[1]}', PUBLIC['commands']
    elif words[0] == 'python' and len(words) > 1 and words[1].startswith('tools/'):
        start, where = words[1].removeprefix('tools/'), PUBLIC['tools']
    else:
        return None
    below = f'{start} {words[2]}' if len(words) > 2 else start
    start = (below if any(key.startswith(f'{below}: ') for key in where) else start) + ': '
    return {name for key in where if key.startswith(start) for name in key.removeprefix(start).split()}


def unknown_options(text):
    """The options in a page's commands that their programs do not have."""
    found = []
    for words in commands(text):
        known = known_options(words)
        given = {word.partition('=')[0] for word in words if re.match(r'--?[a-z]', word)}
        if known is not None:
            found += [f'{" ".join(words[:2])} {name}' for name in sorted(given - known)]
    return found


@pytest.mark.parametrize('page', [name for name, text in PAGES.items() if '```shell' in text])
def test_options_are_there(page):
    assert unknown_options(PAGES[page]) == []


def test_an_unknown_option_is_seen():
    page = '```shell\nmmvim train x.py --chek  # --gone\nmmvim export x \\\n    --out y --int9\n```\n'
    assert unknown_options(page) == ['mmvim train --chek', 'mmvim export --int9']


def test_commands_are_mmvims_or_known():
    tools = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*') if path.is_file()}
    for name, text in PAGES.items():
        for words in commands(text):
            if words[0] == 'mmvim' or words[0].startswith('-') or words[0] in OTHERS:  # options alone, to be added
                continue
            if words[0] == 'python' or words[0].startswith('tools/'):
                script = words[0] if words[0] != 'python' else words[1]
                assert not script.startswith('tools/') or script in tools, f'{name}: {script}'
                continue
            assert words[0] in {'.', 'ruff', 'export', 'ln', 'cd', 'nvidia-smi', 'sudo', 'perf'}, f'{name}: {words}'


@pytest.mark.parametrize(('page', 'program'), PROGRAMS, ids=[name for name, _ in PROGRAMS])
def test_programs_run(page, program, tmp_path, monkeypatch):
    """And print what the comments after them say."""
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, page, 'exec'), {})
    said = [line.removeprefix('# ') for line in program.splitlines() if re.match(r'# \S', line)]
    if 'print(' in program:
        assert said and printed.getvalue().splitlines()[-len(said) :] == said


def test_fragments_are_python_and_name_what_there_is():
    names = 0
    for page, block in BLOCKS:
        compile(block, page, 'exec')
        for name in re.findall(r"'mmvim\.([A-Z]\w+)'", block):
            assert any(registry.get(f'mmvim.{name}') for registry in REGISTRIES), f'{page}: mmvim.{name}'
            names += 1
    assert names > 10
