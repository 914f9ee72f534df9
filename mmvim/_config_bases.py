"""Make ``mmvim::`` and ``mmseg::`` usable in ``_base_`` of a config.

MMEngine resolves ``pkg::dir/file.py`` through a table that maps a package's import name to the name of its
*distribution*, and then looks for ``.mim/configs`` in that distribution. Two things go wrong for a plugin:

- mmvim is not in the table, and the maintained MMSegmentation is distributed as ``onedl-mmsegmentation`` while the
  table says ``mmsegmentation``;
- MMEngine 0.10.7 looks for an editable install in site-packages, which holds only a link to it.

If the table names something that is not a distribution, every version of MMEngine falls back to the import system and
takes the folder of the named module's file, which is right in both cases. So ``mmseg`` is entered as itself, and
``mmvim`` as this module, whose folder is the package's.

The entries are made when mmvim is imported, or with MMEngine where that is imported later. MMEngine reads ``_base_``
before it obeys ``custom_imports``, but it evaluates the expression that stands there. So a config that names such bases
through ``bases()`` brings mmvim along, and reads in any tool: ``_base_ = __import__('mmvim').bases('mmseg::...')``. An
import statement would not do, because MMEngine takes a config that has one for a file of its newer, lazy kind.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_TABLE = 'mmengine.config.utils'  # its MODULE2PACKAGE


def _is_importable(module: str) -> bool:
    """Check whether a top-level module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: a stand-in in sys.modules without a spec
        return False


def bases(*names: str) -> list[str]:
    """Return the bases of a config; that mmvim is imported for it makes ``mmvim::`` and ``mmseg::`` known among them.

    For ``_base_`` of a config that MMSegmentation's or MMDetection's own tools, ``init_model`` or an inferencer read,
    none of which imports mmvim before.

    Args:
        *names: What would stand in ``_base_``: ``mmvim::``, ``mmseg::`` or ``mmdet::`` with the path below that
            package's configs, or a path relative to the config.

    Raises:
        TypeError: If a name is not a string, such as a list of names.

    Examples:
        >>> import mmvim
        >>> mmvim.bases('mmseg::_base_/models/upernet_swin.py', './my_data.py')
        ['mmseg::_base_/models/upernet_swin.py', './my_data.py']
    """
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f'bases() takes names as in bases("mmvim::vim/...", "./my_data.py"), got {name!r}')
    return list(names)


def register_config_bases() -> None:
    """Add ``mmvim`` and, where it can be imported, ``mmseg`` to MMEngine's table of packages with configs.

    MMEngine brings PyTorch with it, so it is not imported for this. Where it has not been imported yet, the table is
    patched as soon as it is.

    Examples:
        >>> import mmvim  # calls it
        >>> from mmengine.config.utils import MODULE2PACKAGE
        >>> MODULE2PACKAGE['mmvim']
        'mmvim._config_bases'
    """
    if _TABLE in sys.modules:
        _patch(sys.modules[_TABLE])
    else:
        sys.meta_path.insert(0, _PatchingFinder())


def _patch(module: ModuleType) -> None:
    module.MODULE2PACKAGE.setdefault('mmvim', __name__)
    if _is_importable('mmseg'):
        module.MODULE2PACKAGE['mmseg'] = 'mmseg'


class _PatchingFinder(MetaPathFinder):
    """A finder that patches the table once its module has run; the module itself is found as ever."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == _TABLE else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: ModuleType) -> None:
                run(module)
                _patch(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec
