"""Every public function and class has an example in its docstring, and every example runs."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import sys

import pytest
from mmengine.registry import Registry

import mmvim
from mmvim import registry
from mmvim.ops import scan_orders
from mmvim.ops.selective_scan.operators import BACKENDS

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(mmvim.__path__, 'mmvim.')
    if not any(part in info.name for part in ('.mim', 'mmvim_native'))  # the last is a library
)
DEPLOY = 'mmvim.deploy.'  # whose modules need the extra "export"
EXPORTING = importlib.util.find_spec('onnxscript') is not None
# Modules that are of no use without a package.
OF_A_PACKAGE = {'mmvim.hub.auto_backbone': 'transformers', 'mmvim.ops.triton_host.resources': 'triton'}
# Packages that export nothing by name: what their modules define is public.
OPEN = ('mmvim.analysis', 'mmvim.datasets', 'mmvim.engine.progress')


def load(name):
    """A module; those of kernels need Triton."""
    if name.startswith(DEPLOY) and not EXPORTING:
        pytest.skip('the extra "export" is not installed')
    if name in OF_A_PACKAGE and importlib.util.find_spec(OF_A_PACKAGE[name]) is None:
        pytest.skip(f'{OF_A_PACKAGE[name]} is not installed')
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == 'triton':
            pytest.skip('Triton is not installed')
        raise


def public_names():
    """What a user may call, by where it is defined."""
    found = {}
    for name in MODULES:
        if name.endswith('.kernels') or '.triton' in name or (name.startswith(DEPLOY) and not EXPORTING):
            continue
        if name in OF_A_PACKAGE:
            continue
        module = importlib.import_module(name)
        exported = vars(module).get('__all__', ()) if hasattr(module, '__path__') else ()
        names = vars(module) if name.startswith(OPEN) else exported
        for key in names:
            value = getattr(module, key)
            own = key in exported or getattr(value, '__module__', '') == name
            if not key.startswith('_') and own and (inspect.isclass(value) or inspect.isfunction(value)):
                found[f'{value.__module__}.{value.__qualname__}'] = value
    for value in vars(registry).values():
        if isinstance(value, Registry):
            value.import_from_location()
            own = (item for item in value.module_dict.values() if item.__module__.startswith('mmvim'))
            found.update({f'{item.__module__}.{item.__qualname__}': item for item in own})
    return found


def test_every_public_name_has_an_example():
    names = public_names()
    assert {'mmvim.models.backbones.vim.Vim', 'mmvim.ops.selective_scan.interface.selective_scan'} <= set(names)
    assert [name for name, value in sorted(names.items()) if '>>> ' not in (value.__doc__ or '')] == []


@pytest.mark.parametrize('name', MODULES)
def test_examples_run(name, capsys, monkeypatch):
    monkeypatch.setattr(BACKENDS, '_found', {**BACKENDS._found})  # an example registers a backend
    monkeypatch.setattr(scan_orders, '_ORDERS', {**scan_orders._ORDERS})  # another a scan order
    kept = importlib.import_module('mmvim.ops.scan_paths')  # the package's attribute is the function
    monkeypatch.setattr(kept, '_cache', kept._cache.copy())  # with the maps of that order
    monkeypatch.setattr(sys, 'meta_path', [*sys.meta_path])  # to which mmvim.compat.mamba_ssm adds
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in finder.find(load(name)):
        runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out


def test_a_wrong_example_is_seen(capsys):
    example = doctest.DocTestParser().get_doctest('>>> 1 + 1\n3\n', {}, 'wrong', None, 0)
    runner = doctest.DocTestRunner()
    runner.run(example)
    assert runner.failures == 1 and 'Expected' in capsys.readouterr().out
