"""A new family is its own files and lines in indices: a toy is added to a copy of the repository, and its tests run.

What it consists of, FILES and LINES, is what CONTRIBUTING.md says.
"""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from difflib import ndiff
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
TOY = Path(__file__).parent / 'toy'
RECIPE = 'toy-nano_upernet_8xb2-160k_ade20k-512x512'
PARTS = (
    *('mmvim', 'configs', 'tests', 'tools', 'demo', 'docs'),
    *('model-index.yml', 'pyproject.toml', 'setup.py', 'README.md'),
)
COPIED = tuple(name for name in PARTS if (ROOT / name).exists())

# What a family consists of: its own files, and where they go ...
FILES = {
    'backbone.py': 'mmvim/models/backbones/toy.py',
    'reader.py': 'mmvim/checkpoints/families/toy.py',
    'recipe.py': f'configs/toy/{RECIPE}.py',
    'metafile.yml': 'configs/toy/metafile.yml',
    'readme.txt': 'configs/toy/README.md',
    'case.py': 'tests/family_cases/toy.py',
}
GOLDEN = {'tests/golden/toy_nano_cls.json', 'tests/golden/toy_nano_dense.json'}
# ... and lines in indices, each after the line that stands beside it here.
LINES = {
    'mmvim/models/backbones/__init__.py': {
        'from mmvim.models.backbones.mamba_vision import MambaVision': 'from mmvim.models.backbones.toy import Toy',
        "    'MambaVision',": "    'Toy',",
    },
    'mmvim/models/__init__.py': {'    MambaVision,': '    Toy,', "    'SimpleFPN',": "    'Toy',"},
    'mmvim/checkpoints/families/__init__.py': {
        'from mmvim.checkpoints.families.recognise import family_for, family_of, recognise': (
            'from mmvim.checkpoints.families.toy import ToyFamily'
        ),
        "    'MambaVisionFamily',": "    'ToyFamily',",
    },
    'model-index.yml': {'- configs/mambavision/metafile.yml': '- configs/toy/metafile.yml'},
    'tests/families.py': {
        'from family_cases.mambavision import MAMBAVISION': 'from family_cases.toy import TOY',
        "    'mambavision': MAMBAVISION,": "    'toy': TOY,",
    },
}
# The tests that must have run for it, by kind.
KINDS = {
    'every backbone': 'test_models.test_backbones',
    'one graph': 'test_models.test_compile',
    'inside what wraps it': 'test_models.test_wrapped',
    'computed twice': 'test_models.test_recompute',
    'beside batch norms': 'test_models.test_batch_norm_borders',
    'fewer outputs': 'test_models.test_out_indices',
    'golden': 'test_models.test_golden',
    'golden files': 'test_checkpoints.test_golden_files',
    'loading': 'test_checkpoints.test_loading',
    'conversion': 'test_checkpoints.test_convert',
    'configs': 'test_configs.test_parse',
    'a training step': 'test_configs.test_step',
    "a user's own config": 'test_configs.test_inherit',
    'size told in the README': 'test_configs.test_full_size',
    'metafile': 'test_configs.test_metafiles',
    'FLOPs': 'test_analysis.test_flops_of_families',
    'learning rates': 'test_engine.test_layer_decay',
    'examples': 'test_doctests',
}

# What must hold for every family together.
RULES = (
    'tests/test_layout.py',
    'tests/test_public_api.py::test_nothing_is_lost',
    'tests/test_configs/test_metafiles.py',
    'tests/test_models/test_backbones.py::test_every_registered_backbone_is_covered',
    'tests/test_models/test_golden.py::test_every_recording_belongs_to_a_family',
)


def copy_checkout(target):
    """Copy what the tests need of the checkout."""
    ignored = shutil.ignore_patterns('__pycache__', '.*')
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy(source, target / name)


def add_toy(tree):
    """Write the family's files, and its lines in the indices."""
    for name, place in FILES.items():
        (tree / place).parent.mkdir(exist_ok=True)
        shutil.copy(TOY / name, tree / place)
    for name, added in LINES.items():
        lines = (tree / name).read_text('utf-8').splitlines()
        for before, line in added.items():
            lines.insert(lines.index(before) + 1, line)
        (tree / name).write_text('\n'.join(lines) + '\n', 'utf-8')


def run(tree, *command):
    """Run this interpreter in the copy, on its own packages."""
    path = os.pathsep.join(map(str, (tree, tree / 'tests')))
    env = {**os.environ, 'PYTHONPATH': path, 'PYTHONDONTWRITEBYTECODE': '1', 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, command)],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=840,
    )


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the checkout with the toy in it."""
    tree = tmp_path_factory.mktemp('new_family') / 'tree'
    tree.mkdir()
    copy_checkout(tree)
    add_toy(tree)
    done = run(tree, tree / 'tests/toy/publish.py')
    assert done.returncode == 0, done.stderr[-3000:]
    return tree


def files_of(tree):
    """The contents of all files of a tree that are copied, by path."""
    found = {}
    for name in COPIED:
        for path in [tree / name, *(tree / name).rglob('*')]:
            parts = path.relative_to(tree).parts
            if path.is_file() and '__pycache__' not in parts and not any(part.startswith('.') for part in parts):
                found[path.relative_to(tree).as_posix()] = path.read_bytes()
    return found


def test_nothing_else_changes(tree):
    before, after = files_of(ROOT), files_of(tree)
    assert set(before) <= set(after)
    assert set(after) - set(before) == {*FILES.values(), *GOLDEN}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == set(LINES)
    for name in changed:
        lines = [text.decode().splitlines() for text in (before[name], after[name])]
        differing = [line for line in ndiff(*lines) if not line.startswith(('  ', '? '))]
        assert sorted(differing) == sorted(f'+ {line}' for line in LINES[name].values())


def test_its_tests_run_and_pass(tree):
    report = tree.parent / 'report.xml'
    places = sorted(f'tests/{module.replace(".", "/")}.py' for module in KINDS.values())
    command = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', 'toy', f'--junitxml={report}', *places]
    done = run(tree, *command)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    ran = [case for case in ET.parse(report).iter('testcase') if case.find('skipped') is None]
    assert {mmvim_of(tree)} == {str(tree / 'mmvim')}
    for kind, module in KINDS.items():
        names = [case.get('name') for case in ran if case.get('classname') == f'tests.{module}']
        assert names and all('toy' in name for name in names), f'no test ran of {kind}'


def mmvim_of(tree):
    """The package that processes in the copy import."""
    return run(tree, '-c', 'import mmvim; print(mmvim.__path__[0])').stdout.strip()


def test_the_houses_rules_hold(tree):
    done = run(tree, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *RULES)
    assert done.returncode == 0, done.stdout[-4000:]
