"""What is built and installed: `.mim` in every form, `mmvim::` and `mmseg::` in configs, imports without the rest."""

import email
import importlib.util
import re
import shutil
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools
import yaml
from checkout import ROOT, load_module
from families import FAMILY_CASES
from packages import LEFT_OUT, build, copy_tree, run

import mmvim
from mmvim.ops.native import build as build_native

pytestmark = pytest.mark.slow  # builds, and imports in other processes

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']


def files_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file() and '__pycache__' not in p.parts}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp('packaging') / 'tree')


@pytest.fixture(scope='module')
def wheel(tree):
    # leftovers of an interrupted build and of an older release must not get into the wheel
    for leftover in (tree / 'build/lib/mmvim/.mim/configs/old.py', tree / 'mmvim/.mim/configs/old.py'):
        leftover.parent.mkdir(parents=True)
        leftover.write_text('')
    archive = build('build_wheel', tree, tree.parent / 'wheel')
    assert files_below(tree / 'mmvim/.mim') == {'configs/old.py'}, 'building a wheel changed the checkout'
    shutil.rmtree(tree / 'mmvim/.mim')
    return archive


@pytest.fixture(scope='module')
def sdist(tree):
    return build('build_sdist', tree, tree.parent / 'sdist')


def expected_in_wheel(tree):
    mim = {f'mmvim/.mim/{top}/{name}' for top in ('configs', 'tools') for name in files_below(tree / top)}
    return mim | {'mmvim/.mim/model-index.yml'} | {f'mmvim/{name}' for name in files_below(tree / 'mmvim')}


def test_wheel_holds_the_package_and_mim(wheel, tree):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in n and not n.endswith('/')}
    assert names == expected_in_wheel(tree)
    assert any(n.startswith('mmvim/.mim/configs/vim/') and n.endswith('.py') for n in names)
    assert 'mmvim/.mim/tools/train.py' in names


def test_wheel_holds_nothing_else(wheel, tree):
    archive = zipfile.ZipFile(wheel)
    info = next(n.partition('/')[0] for n in archive.namelist() if '.dist-info/' in n)
    assert {n.partition('/')[0] for n in archive.namelist()} == {'mmvim', info}
    assert archive.read(f'{info}/top_level.txt').split() == [b'mmvim']
    mim = {n.split('/')[2] for n in archive.namelist() if n.startswith('mmvim/.mim/')}
    assert mim == {'configs', 'tools', 'model-index.yml'}
    # the demo's art by its content, wherever it might have got to and under whatever name
    art = {(tree / 'demo' / name).read_bytes() for name in files_below(tree / 'demo')}
    assert len(art) > 10 and [n for n in archive.namelist() if archive.read(n) in art] == []


def test_wheel_has_the_licence_and_requires_neither_family(wheel):
    archive = zipfile.ZipFile(wheel)
    info = next(n.partition('/')[0] for n in archive.namelist() if '.dist-info/' in n)
    assert any(n.startswith(info) and n.endswith('/LICENSE') for n in archive.namelist())
    metadata = email.message_from_bytes(archive.read(f'{info}/METADATA'))
    requirements = metadata.get_all('Requires-Dist')
    names = {re.match(r'[\w-]+', r)[0] for r in requirements if 'extra ==' not in r}
    assert names == {'torch', 'einops', 'numpy', 'ninja'}
    for extra in ('seg', 'det', 'seg-openmmlab', 'det-openmmlab', 'dev', 'triton'):
        assert extra in metadata.get_all('Provides-Extra')
    onedl = [r for r in requirements if re.search(r'extra == .(seg|det).$', r)]
    original = [r for r in requirements if 'openmmlab' in r]
    assert onedl and all(r.startswith('onedl-') for r in onedl)
    assert original and not any(r.startswith('onedl-') for r in original)


def test_sdist_carries_mim_and_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter='data')
    unpacked = next(tmp_path.iterdir())
    assert not (unpacked / 'configs').exists()
    assert (unpacked / 'LICENSE').exists() and (unpacked / 'mmvim/.mim/model-index.yml').exists()
    again = build('build_wheel', unpacked, tmp_path / 'again')
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())
    # an editable install of it has nothing to link to, and keeps the copy
    before = files_below(unpacked / 'mmvim/.mim')
    build('build_editable', unpacked, tmp_path / 'editable')
    assert files_below(unpacked / 'mmvim/.mim') == before


RESOLVE = """
import os, site, sys
for folder in sys.argv[3:]:
    site.addsitedir(folder)
import mmvim
from mmengine.config import Config
with open('user.py', 'w') as f:
    f.write(f'_base_ = [{sys.argv[1]!r}]')
cfg = Config.fromfile('user.py')
assert cfg.model.type == 'EncoderDecoder', cfg.model
assert os.path.realpath(mmvim.__file__).startswith(os.path.realpath(sys.argv[2])), mmvim.__file__
"""
NEEDS_MMSEG = pytest.mark.skipif(importlib.util.find_spec('mmseg') is None, reason='mmseg is not installed')


def own_base():
    return 'mmvim::vim/' + min(p.name for p in (ROOT / 'configs/vim').glob('*.py'))


@NEEDS_MMSEG
@pytest.mark.parametrize('base', [own_base(), 'mmseg::_base_/models/upernet_swin.py'])
def test_bases_resolve_from_an_installed_wheel(wheel, tmp_path, base):
    site = tmp_path / 'site'
    run('-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', site, wheel, cwd=tmp_path)
    run('-c', RESOLVE, base, site, path=[site], cwd=tmp_path)


def test_an_installed_wheel_has_the_command(wheel, tmp_path):
    """With the metafiles and configs that the wheel brings, and without a checkout."""
    site = tmp_path / 'site'
    run('-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', site, wheel, cwd=tmp_path)
    assert (site / 'bin/mmvim').exists()
    listed = run('-m', 'mmvim', 'models', 'vim', path=[site], cwd=tmp_path).stdout
    name = min(p.stem for p in (ROOT / 'configs/vim').glob('*upernet*.py'))
    assert name in listed
    if importlib.util.find_spec('mmseg') is not None:
        text = run('-m', 'mmvim', 'config', name, path=[site], cwd=tmp_path).stdout
        assert text.startswith(f'# configs/vim/{name}.py with its bases') and 'mmvim.Vim' in text


@NEEDS_MMSEG
def test_bases_resolve_from_an_editable_install(tmp_path):
    tree, site = copy_tree(tmp_path / 'tree'), tmp_path / 'site'
    stale = tree / 'mmvim/.mim/configs'
    stale.mkdir(parents=True)
    (stale / 'old.py').write_text('')
    with zipfile.ZipFile(build('build_editable', tree, tmp_path / 'editable')) as archive:
        archive.extractall(site)
    assert not (site / 'mmvim').exists()
    mim = tree / 'mmvim/.mim'
    assert {p.name: p.resolve() for p in mim.iterdir()} == {
        'configs': tree / 'configs',
        'tools': tree / 'tools',
        'model-index.yml': tree / 'model-index.yml',
    }
    # on the path as well, because an editable mmvim of the environment under test has a finder of the same name
    run('-c', RESOLVE, own_base(), tree, site, path=[site], cwd=tmp_path)


def test_an_incomplete_tree_is_named(tmp_path):
    tree = copy_tree(tmp_path / 'tree')
    (tree / 'model-index.yml').unlink()
    failed = build('build_wheel', tree, tmp_path / 'wheel', check=False)
    assert failed.returncode != 0 and 'model-index.yml is missing' in failed.stderr
    assert not list((tmp_path / 'wheel').glob('*.whl'))


def test_the_supported_pythons_are_the_same_everywhere():
    oldest = PROJECT['requires-python'].removeprefix('>=')
    files = ('README.md', 'CONTRIBUTING.md', 'tools/setup_env.sh')
    text = '\n'.join((ROOT / name).read_text('utf-8') for name in files)
    assert set(re.findall(r'(?:Python|version) (3\.\d+) or (?:newer|later)', text)) == {oldest}
    assert f'sys.version_info < ({oldest.replace(".", ", ")})' in text
    jobs = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text('utf-8'))['jobs']
    pythons = [step['with']['python-version'] for job in jobs.values() for step in job['steps'] if 'with' in step]
    assert pythons == [oldest]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text('utf-8'))
    assert (citation['version'], citation['license']) == (mmvim.__version__, PROJECT['license'])


@pytest.fixture
def setup_module(tmp_path, monkeypatch):
    """setup.py of a copy of the tree as a module, without its call of setup()."""
    tree = copy_tree(tmp_path / 'tree')
    monkeypatch.setattr(setuptools, 'setup', lambda **_: None)
    return load_module(tree / 'setup.py')


def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')


def test_a_read_only_tree_is_named(setup_module, monkeypatch):
    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(SystemExit, match=r'mmvim/\.mim cannot be replaced \(Permission denied\).*without -e'):
        setup_module.link_mim()


def test_without_links_there_is_a_copy(setup_module, monkeypatch, capsys):
    monkeypatch.setattr(Path, 'symlink_to', refuse)
    setup_module.link_mim()
    mim = setup_module.ROOT / 'mmvim/.mim'
    assert not any(p.is_symlink() for p in mim.iterdir())
    assert files_below(mim / 'configs') == files_below(setup_module.ROOT / 'configs')
    assert 'is a copy' in capsys.readouterr().out


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'{{name}} is blocked', name=name)
sys.meta_path.insert(0, Blocker())
"""
BLOCKER_OF_OPERATORS = 'sys.modules["mmcv._ext"] = None\n'
ALL_OPTIONAL = [
    'mmengine',
    'mmcv',
    'mmseg',
    'mmdet',
    'mmpretrain',
    'triton',
    'timm',
    'torchvision',
    'mamba_ssm',
    'causal_conv1d',
]


@pytest.mark.parametrize('blocked', [ALL_OPTIONAL, ['mmseg', 'mmdet', 'triton']], ids=['all', 'mmseg-mmdet-triton'])
def test_import_without_the_optional_packages(tmp_path, blocked):
    code = BLOCKER.format(blocked=blocked) + (
        'import mmvim\n'
        'assert "torch" not in sys.modules, "import mmvim is heavy"\n'
        'from mmvim.ops import selective_scan\n'
        'import torch\n'
        'u = torch.ones(1, 2, 3)\n'
        'y = selective_scan(u, u, -torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 4))\n'
        'assert y.shape == u.shape and torch.isfinite(y).all()\n'
    )
    run('-c', code, path=[ROOT], cwd=tmp_path)


# Forward and backward of the smallest model of every family, alone and within an adapter, and of a neck.
BACKBONES = """
import torch
from mmengine.registry import MODELS
from families import FAMILY_CASES
for case in FAMILY_CASES.values():
    model = MODELS.build(dict(type=case.type, **case.tiny))
    model.init_weights()
    outputs = model(torch.randn(2, 3, 32, 32))
    sum(x.square().mean() for x in outputs).backward()
    assert all(torch.isfinite(x).all() for x in outputs), case.type
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()), case.type
    print(type(model).__module__, flush=True)
inner = dict(type="mmvim.Vim", arch=dict(embed_dims=8, depth=4), img_size=32)
adapter = MODELS.build(dict(type="mmvim.ViTAdapter", backbone=inner, num_heads=2, conv_dims=8))
print(len(adapter(torch.randn(2, 3, 32, 32))))
assert not any(name.partition(".")[0] in BLOCKED for name in sys.modules)
"""


@pytest.mark.skipif(importlib.util.find_spec('mmcv') is None, reason='mmcv is not installed')
def test_backbones_run_without_mmseg_and_mmdet(tmp_path):
    """MMEngine alone, and mmcv without its operators."""
    blocked = ['mmseg', 'mmdet', 'mmpretrain', 'triton', 'timm', 'torchvision']
    code = f'BLOCKED = {blocked}\n' + BLOCKER.format(blocked=blocked) + BLOCKER_OF_OPERATORS + BACKBONES
    done = run('-c', code, path=[ROOT, ROOT / 'tests'], cwd=tmp_path, MMVIM_SCAN_BACKEND='torch')
    *modules, outputs = [line for line in done.stdout.splitlines() if re.fullmatch(r'mmvim\.[\w.]+|\d+', line)]
    assert len(modules) == len(set(modules)) == len(FAMILY_CASES) and outputs == '4'
    assert all(name.startswith('mmvim.models.backbones.') for name in modules)


def test_a_broken_module_shows_its_real_cause(tmp_path):
    package = tmp_path / 'mmvim'
    shutil.copytree(ROOT / 'mmvim', package, ignore=LEFT_OUT)
    (package / 'models/__init__.py').write_text('raise ImportError("libexample.so is missing")')
    code = 'from mmengine.registry import MODELS; MODELS.build(dict(type="mmvim.Vim"))'
    failed = run('-c', code, path=[tmp_path], cwd=tmp_path, check=False)
    assert failed.returncode != 0 and failed.stderr.rstrip().endswith('ImportError: libexample.so is missing')


@pytest.mark.skipif(build_native.compiler() is None, reason='no C++ compiler')
def test_a_wheel_built_beside_pytorch_carries_the_compiled_scan(tmp_path):
    tree = copy_tree(tmp_path / 'tree')
    archive = build('build_wheel', tree, tmp_path / 'wheel', MMVIM_BUILD_NATIVE='1')
    assert not archive.name.endswith('-none-any.whl')
    with zipfile.ZipFile(archive) as wheel:
        libraries = [name for name in wheel.namelist() if name.endswith('.so')]
        wheel.extractall(tmp_path / 'installed')
    assert libraries == [f'mmvim/ops/native/{build_native.library_name()}.so']
    code = (
        'import torch; from mmvim.ops import backends, selective_scan; u = torch.ones(1, 1, 3); '
        'selective_scan(u, u, -torch.ones(1, 1), u, u, backend="native"); print(backends()["native"])'
    )
    done = run('-c', code, path=[tmp_path / 'installed'], cwd=tmp_path, TORCH_EXTENSIONS_DIR=str(tmp_path / 'cache'))
    assert done.stdout == "(True, 'C++ on CPUs, compiled')\n" and not (tmp_path / 'cache').exists()
