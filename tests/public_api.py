"""What a user can name: registries, functions, environment variables, options of tools.

``python tests/public_api.py`` writes the record that ``test_public_api.py`` compares with. Nobody needs to do so for a
new name; for one that goes or changes its meaning, CHANGELOG.md and UPGRADING.md say what to do instead.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix('.json')
MODULES = ('mmvim.ops', 'mmvim.checkpoints', 'mmvim.compat', 'mmvim.deploy', 'mmvim.hub')
VARIABLE = re.compile(r'MMVIM_(?!AVX)[A-Z_]+')  # MMVIM_AVX512 is a macro of the C++ sources


def signature(function: Any) -> dict[str, str]:
    """Each parameter with its place, where it has one, and its default or the word 'required'."""
    found = {}
    for place, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        default = 'required' if parameter.default is parameter.empty else repr(parameter.default)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            default = 'any number'
        found[name] = default if parameter.kind is parameter.KEYWORD_ONLY else f'{place}: {default}'
    return found


def describe(value: Any) -> Any:
    """A function by its signature, a class by those of itself and its methods, a tuple by what is in it."""
    if inspect.isclass(value):
        methods = {
            name: signature(getattr(value, name))
            for name, member in vars(value).items()
            if not name.startswith('_') and callable(getattr(value, name))
        }
        return {'': signature(value), **methods}
    if callable(value):
        return signature(value)
    return sorted(map(str, value)) if isinstance(value, (tuple, list, dict)) else type(value).__name__


def exported() -> dict[str, Any]:
    """What the modules of ``MODULES`` export."""
    modules = {name: importlib.import_module(name) for name in MODULES}
    return {
        f'{module}.{name}': describe(getattr(content, name))
        for module, content in modules.items()
        for name in content.__all__
    }


def registered() -> dict[str, Any]:
    """What a config can name, by registry."""
    from mmengine.registry import Registry

    from mmvim import registry

    found = {}
    for name, value in vars(registry).items():
        if isinstance(value, Registry):
            value.import_from_location()
            for key, item in value.module_dict.items():
                found[f'{name}: {key}'] = describe(item) if item.__module__.startswith('mmvim') else {}
    return found


def variables() -> list[str]:
    """Environment variables that the sources name in a text, except in docstrings."""
    found = set()
    sources = [*(ROOT / 'mmvim').rglob('*.py'), *(ROOT / 'tools').rglob('*.py'), ROOT / 'setup.py']
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
                found.add(node.value)
    return sorted(found)


class _Parsed(Exception):
    """Carries a tool's parser to whoever asked for it."""


def _parser_of(function: Callable, *arguments: Any) -> argparse.ArgumentParser:
    """The parser with which a function begins."""

    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Parsed(parser)

    with mock.patch.object(argparse.ArgumentParser, 'parse_args', stop):
        try:
            function(*arguments)
        except _Parsed as parsed:
            return parsed.args[0]
    raise AssertionError(f'{function} parses no arguments')


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f'public_{path.stem}', path)
    tool = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, 'path', [str(path.parent), *sys.path]):  # as Python does for a script
        spec.loader.exec_module(tool)
    return tool


def _options(name: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Options and positional arguments with what each takes: choices, default, number of values."""
    found = {
        f'{name}: {" ".join(action.option_strings) or action.dest}': {
            'dest': action.dest,
            'choices': sorted(map(str, action.choices or ())),
            'default': repr(action.default).replace(str(ROOT), 'ROOT'),
            'nargs': repr(action.nargs),
        }
        for action in parser._actions
    }
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, below in action.choices.items():
                found |= _options(f'{name} {command}', below)
    return found


def tools() -> dict[str, Any]:
    """The options of each tool."""
    found = {}
    for path in sorted([*(ROOT / 'tools').rglob('*.py'), *(ROOT / 'demo').glob('*.py')]):
        if path.parent.name == 'visualize':  # a kind of `mmvim visualize` each, whose options are recorded there
            continue
        text = path.read_text('utf-8')
        if 'ArgumentParser(' in text or 'def parse_args' in text or 'mmvim.cli.commands' in text:
            tool = _load(path)
            begin = getattr(tool, 'parse_args', None) or tool.main
            parser = _parser_of(begin, *([[]] if inspect.signature(begin).parameters else []))
            folder = ROOT if path.parent.name == 'demo' else ROOT / 'tools'
            found |= _options(path.relative_to(folder).as_posix(), parser)
    return found


def commands() -> dict[str, Any]:
    """The options of each command of ``mmvim``."""
    from mmvim.cli.commands import COMMANDS

    found = {}
    for name in COMMANDS:
        command = importlib.import_module(f'mmvim.cli.commands.{name}')
        found |= _options(f'mmvim {name}', _parser_of(command.main, []))
    return found


def collect() -> dict[str, Any]:
    """All of them."""
    return {
        'exported': exported(),
        'registered': registered(),
        'variables': variables(),
        'tools': tools(),
        'commands': commands(),
    }


if __name__ == '__main__':
    RECORD.write_text(json.dumps(collect(), indent=1, sort_keys=True) + '\n', 'utf-8')
