"""The console script: its commands, what `tools/` calls of them, and that it is quick where it can be."""

import ast
import builtins
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmvim
from mmvim.cli.commands import COMMANDS
from mmvim.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
# What has no tool of its own: it came with the console script.
ONLY_COMMANDS = {'models', 'config', 'doctor'}
# They measure mmvim from a checkout, and are no part of an installation.
MEASURING = {
    'analysis_tools/benchmark_backbone.py',
    'analysis_tools/benchmark_calls.py',
    'analysis_tools/benchmark_cpu.py',
    'analysis_tools/benchmark_launches.py',
    'analysis_tools/benchmark_onnx.py',
    'analysis_tools/benchmark_scan.py',
    'analysis_tools/benchmark_threads.py',
    'analysis_tools/benchmark_tiles.py',
    'analysis_tools/benchmark_train.py',
    'analysis_tools/benchmark_wkv.py',
    'analysis_tools/compare_backbones.py',
    'analysis_tools/compile_and_export.py',
    'analysis_tools/detection_learning.py',
    'analysis_tools/gpu_counters.py',
    'analysis_tools/gpu_model.py',
    'analysis_tools/kill_training.py',
    'analysis_tools/measure_memory.py',
    'analysis_tools/precision_loss.py',
    'analysis_tools/profile_step.py',
    'analysis_tools/real_pictures.py',
    'analysis_tools/stress_training.py',
    'analysis_tools/train_one_step.py',
}
# They make and check releases, likewise.
MAINTAINING = {'build_dist.py', 'fuzz.py', 'licences.py', 'pin_hashes.py'}


def run(*command, **variables):
    """Run Python as a user does; standard output."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    env = {**os.environ, 'PYTHONPATH': path, 'PYTHONWARNINGS': 'ignore', **variables}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=True).stdout


def scripts():
    """Each tool that can be executed, and the commands that it imports."""
    for path in sorted(TOOLS.rglob('*.py')):
        tree = ast.parse(path.read_text('utf-8'))
        if any(isinstance(node, ast.If) and '__main__' in ast.unparse(node.test) for node in tree.body):
            names = (node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
            called = {name.rpartition('.')[2] for name in names if name.startswith('mmvim.cli.commands.')}
            yield path.relative_to(TOOLS).as_posix(), called, tree


def test_every_tool_is_a_command():
    called = set()
    for name, commands, tree in scripts():
        called |= commands
        if not commands:
            assert name in MEASURING | MAINTAINING, f'make it a command, which tools/{name} calls'
        else:
            assert len(commands) == 1 and not any(isinstance(node, ast.FunctionDef) for node in tree.body), name
    assert called | ONLY_COMMANDS == set(COMMANDS)
    assert called.isdisjoint(ONLY_COMMANDS)


@pytest.mark.parametrize(
    ('tools', 'words'),
    [
        (MEASURING, 'measures mmvim itself, from a checkout'),
        (MAINTAINING, 'is for maintainers of mmvim, from a checkout'),
    ],
)
def test_tools_that_need_a_checkout_say_so(tools, words):
    found = {name: ast.get_docstring(tree) for name, _, tree in scripts() if name in tools}
    assert set(found) == tools
    assert [name for name, text in found.items() if words not in text] == []


def test_every_command_has_a_file_and_every_file_a_command():
    files = {path.stem for path in (ROOT / 'mmvim/cli/commands').glob('*.py')} - {'__init__'}
    assert files == set(COMMANDS)


@pytest.mark.parametrize('command', COMMANDS)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, '--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert text.startswith(f'usage: mmvim {command} ') and COMMANDS[command] in text


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_help(arguments, capsys):
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith('  ')] == [
        f'  {name:<10}{text}' for name, text in COMMANDS.items()
    ]


def test_version(capsys):
    main(['--version'])
    assert capsys.readouterr().out == f'mmvim {mmvim.__version__}\n'


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['trian'], "mmvim has no command 'trian'; did you mean train?"),
        (['model'], "mmvim has no command 'model'; did you mean models?"),
        (['zebra'], "mmvim has no command 'zebra'; it has train, test,"),
        (['--verbose'], "mmvim has no command '--verbose'; it has train, test,"),
        (['train'], 'the following arguments are required: CONFIG; see mmvim train --help'),
        (['models', '--jsn'], 'see mmvim models --help'),
        (['train', 'upernet_vin_t_ade20k'], 'did you mean upernet_vim_t_ade20k'),
        (['convert', 'a.pth', 'b.pth', '--family', 'vim'], '--family is an option of --to published'),
        (['convert', 'a.pth', 'b.pth', '--to', 'published', '--dense'], '--dense is an option of --to mmvim'),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ''
    assert captured.err.startswith('error: ') and captured.err.count('\n') == 1 and words in captured.err


def test_a_missing_package_is_named(monkeypatch, capsys):
    def missing(name, *arguments, **keywords):
        if name.partition('.')[0] == 'mmengine':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return found(name, *arguments, **keywords)

    found = builtins.__import__
    for name in [name for name in sys.modules if name.startswith('mmvim.cli.commands.')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, '__import__', missing)
    with pytest.raises(SystemExit) as stop:
        main(['train', 'x'])
    assert stop.value.code == 1
    assert 'mmvim train needs mmengine, which is not installed; install what it needs:' in capsys.readouterr().err


def test_a_bug_of_a_command_is_not_called_a_missing_package(monkeypatch):
    monkeypatch.setitem(COMMANDS, 'gone', 'A command whose file is not there.')
    with pytest.raises(ModuleNotFoundError):
        main(['gone'])


@pytest.mark.parametrize('arguments', [['--help'], ['--version'], ['models', 'vim']])
def test_what_need_not_wait_for_pytorch(arguments):
    code = f'import sys; from mmvim.cli.main import main; main({arguments}); print(sorted(sys.modules))'
    loaded = set(ast.literal_eval(run('-c', code).splitlines()[-1]))
    assert 'mmvim.cli.main' in loaded and loaded.isdisjoint({'torch', 'mmengine', 'mmcv', 'numpy'})


def test_as_a_module():
    assert run('-m', 'mmvim', '--version') == f'mmvim {mmvim.__version__}\n'


BASES = """
import importlib.util, sys
import mmvim
assert 'mmengine' not in sys.modules
importlib.util.find_spec('mmengine.config.utils')
from mmengine.config.utils import MODULE2PACKAGE
print(MODULE2PACKAGE['mmvim'], sum(type(finder).__module__ == 'mmvim._config_bases' for finder in sys.meta_path))
"""


def test_bases_are_known_whichever_is_imported_first():
    assert run('-c', BASES) == 'mmvim._config_bases 0\n'
    other = 'import mmengine.config.utils as u, mmvim; print(u.MODULE2PACKAGE["mmvim"])'
    assert run('-c', other) == 'mmvim._config_bases\n'


def test_lazy_names():
    from mmvim import cli

    for name in cli.__all__:
        module = importlib.import_module(f'mmvim.cli.{cli._FILES[name]}')
        assert getattr(cli, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="has no attribute 'lanuch'"):
        cli.lanuch  # noqa: B018


def test_the_entry_point():
    text = (ROOT / 'pyproject.toml').read_text('utf-8')
    assert re.search(r'^\[project\.scripts\]\nmmvim = "mmvim\.cli\.main:main"$', text, re.MULTILINE)
