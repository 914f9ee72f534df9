"""The layout of the package: floors that import only downwards, light entry modules, small documented files."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'mmvim'
FILES = sorted(p for p in PACKAGE.rglob('*.py') if '.mim' not in p.parts)

# The floors, lowest first; the tools above them may import anything.
FLOORS = {'ops': 0, 'datasets': 1, 'models': 2, 'engine': 3, 'checkpoints': 3, 'analysis': 3}
FLOORS |= {'deploy': 4, 'hub': 4, 'compat': 4, 'cli': 5}
ENTRY = {
    'mmvim',
    'mmvim.registry',
    'mmvim._config_bases',
    'mmvim._deprecation',
}  # below every floor: importing them must cost nothing
MAX_LINES = 400
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Packages that must never be needed: no build for every PyTorch, or names that patched copies are known to shadow.
FOREIGN = {'timm', 'torchvision', 'mamba_ssm', 'causal_conv1d', 'selective_scan_cuda', 'fvcore', 'detectron2', 'apex'}
# Modules of kernels, which nothing imports before it launches one.
SCAN_KERNELS = ('forward', 'backward', 'segments', 'reduce', 'tiles')
KERNELS = {f'mmvim.ops.{op}.kernels' for op in ('bi_wkv', 'conv_silu', 'rms_norm')}
KERNELS.add('mmvim.ops.triton_host.kernels')
KERNELS |= {f'mmvim.ops.selective_scan.triton.{name}' for name in SCAN_KERNELS}
OPENMMLAB = {'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def floor_of(module):
    """The floor a module of mmvim lies on, None for the entry modules."""
    top = module.split('.')[1:2]
    return FLOORS[top[0]] if top and top[0] in FLOORS else None


def imports_of(tree, module, is_package):
    """Yield (imported module, line, whether it happens when the module is imported) for every import in a tree."""
    lazy = set()
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lazy |= {id(inner) for inner in ast.walk(node)}
        elif isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
            lazy |= {id(inner) for child in node.body for inner in ast.walk(child)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = module.split('.') if is_package else module.split('.')[:-1]
                base = '.'.join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            # `from package import module` imports the module too; where it is no module, the longer name is harmless
            yield from ((f'{base}.{alias.name}', node.lineno, id(node) not in lazy) for alias in node.names)


def violations(source, module, is_package=False):
    """Return what the imports of a module break, one text for each."""
    found = []
    floor, in_compat = floor_of(module), module.startswith('mmvim.compat')
    for imported, line, at_import in imports_of(ast.parse(source), module, is_package):
        top = imported.partition('.')[0]
        where = f'{module}, line {line}: import of {imported}'
        if top in FOREIGN:
            found.append(f'{where}: not a requirement of mmvim')
        elif top in ('tools', 'tests', 'configs', 'demo', 'scenes'):
            found.append(f'{where}: above the package')
        elif top == 'mmvim':
            other = floor_of(imported)
            if floor is None and module in ENTRY and other is not None:
                found.append(f'{where}: an entry module imports a floor')
            elif floor is not None and other is not None and other > floor:
                found.append(f'{where}: upwards, from floor {floor} to floor {other}')
            elif in_compat and other not in (None, 0, floor):
                found.append(f'{where}: needs an OpenMMLab package, which mmvim/compat does not')
        elif module in ENTRY and top not in sys.stdlib_module_names | {'mmengine'}:
            found.append(f'{where}: heavy for an entry module')
        elif (floor == 0 or in_compat) and top in OPENMMLAB:
            found.append(f'{where}: {"mmvim/compat" if in_compat else "mmvim/ops"} needs no OpenMMLab package')
        elif at_import and top in ('mmseg', 'mmdet', 'mmpretrain'):
            found.append(f'{where}: at import, so that a user without {top} cannot use the module')
        elif at_import and top == 'triton' and module not in KERNELS:
            found.append(f'{where}: at import, so that a machine without Triton cannot use the module')
    return found


def read(path):
    return path.read_text('utf-8')


def test_imports_go_down():
    assert [v for p in FILES for v in violations(read(p), module_name(p), p.name == '__init__.py')] == []


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('mmvim.ops.a', 'import mmengine'),
        ('mmvim.ops.a', 'from mmvim.models import layers'),
        ('mmvim.ops.a', 'from ..models.layers import norm'),
        ('mmvim.ops.a', 'from .. import models'),
        ('mmvim.models.layers.a', 'def f():\n    from mmvim import engine'),
        ('mmvim.models.layers.a', 'from mmseg.registry import MODELS'),
        ('mmvim.models.layers.a', 'try:\n    import triton\nexcept ImportError:\n    pass'),
        ('mmvim.engine.a', 'from mmvim.cli import errors'),
        ('mmvim.engine.a', 'import tools.train'),
        ('mmvim.datasets.a', 'from scenes import render_scene'),
        ('mmvim.datasets.a', 'def f():\n    from mmvim.models import preprocessors'),
        ('mmvim.cli.a', 'import tools.train'),
        ('mmvim.compat.a', 'from mmvim.cli import errors'),
        ('mmvim.compat.a', 'from mmvim.models.layers import vim_mixer'),
        ('mmvim.compat.a', 'import mmengine'),
        ('mmvim.compat.a', 'import causal_conv1d'),
        ('mmvim.checkpoints.a', 'from mmvim import compat'),
        ('mmvim.analysis.a', 'import timm.models'),
        ('mmvim.registry', 'import torch'),
        ('mmvim.registry', 'from mmvim.ops import selective_scan'),
        ('mmvim', 'from .registry import MODELS\nfrom . import ops'),
    ],
)
def test_the_rule_sees(module, source):
    assert len(violations(source, module, is_package=module == 'mmvim')) == 1


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('mmvim.ops.a', 'import torch, math\nfrom .b import c\nfrom mmvim.ops import scan_paths'),
        ('mmvim.models.layers.a', 'from mmvim.ops import x\nfrom mmvim.registry import MODELS\nimport mmcv.cnn'),
        ('mmvim.models.a', 'from mmvim.datasets.errors import x'),
        ('mmvim.engine.a', 'from mmvim.models import x\nfrom mmvim.datasets import y\ndef f():\n    import mmseg'),
        ('mmvim.compat.a', 'import torch\nfrom mmvim.ops.selective_scan import operators\nimport mmvim.compat.b'),
        ('mmvim.cli.a', 'from mmvim import checkpoints\nfrom mmvim.engine.hooks import x'),
        ('mmvim.ops.selective_scan.triton.forward', 'import triton'),
        ('mmvim.registry', 'import typing\nfrom mmengine.registry import Registry'),
    ],
)
def test_the_rule_allows(module, source):
    assert not violations(source, module)


def test_every_folder_is_a_package_of_a_known_floor():
    folders = {p.parent for p in FILES}
    assert {f.relative_to(ROOT).as_posix() for f in folders if not (f / '__init__.py').exists()} == set()
    assert {f.relative_to(PACKAGE).parts[0] for f in folders - {PACKAGE}} <= set(FLOORS)
    assert {module_name(p) for p in FILES if p.parent == PACKAGE} == ENTRY | {'mmvim.__main__'}


def test_ops_are_functions():
    """No module with parameters and no registry lies in mmvim/ops."""
    for path in FILES:
        if floor_of(module_name(path)) == 0:
            for node in ast.walk(ast.parse(read(path))):
                bases = node.bases if isinstance(node, ast.ClassDef) else []
                assert not any(ast.unparse(b).endswith('Module') for b in bases), f'{path}: {node.name} is a module'


def test_files_are_small():
    folders = (ROOT / name for name in ('demo', 'docs', 'tools', 'tests'))
    files = [*FILES, ROOT / 'setup.py', *(path for folder in folders for path in folder.rglob('*.py'))]
    lines = {p.relative_to(ROOT).as_posix(): len(read(p).splitlines()) for p in files}
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}, 'split them by job'


def undocumented(source):
    """Return the public functions and classes of a module that lack a docstring, and 'module' if it lacks its own."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) or not tree.body else ['module']
    for node in tree.body:
        public = isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith('_')
        if public and not ast.get_docstring(node):
            missing.append(node.name)
    return missing


def test_public_names_have_a_docstring():
    missing = {module_name(p): undocumented(read(p)) for p in FILES}
    assert {module: names for module, names in missing.items() if names} == {}


def test_the_docstring_check_sees():
    assert undocumented('def f(): pass\nclass C: pass\ndef _g(): pass') == ['module', 'f', 'C']
    assert undocumented('"""m"""\ndef f():\n    """f"""') == []
