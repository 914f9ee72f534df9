"""Let Python find the served names: a finder that is asked last, so that whatever is installed is found before it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mmvim.compat.names import SERVED, TOP_LEVEL, listing

VMAMBA = 'selective_scan_cuda'  # how all names of compiled scans begin, those that are not served included


class NotServedError(ModuleNotFoundError):
    """Says that a name of a served package is not served, and which are.

    Its ``name`` is None: Python replaces the text of an error that names the module which ``from ... import`` looked
    for by its own.
    """


class ServedModule(ModuleType):
    """A module of a served package. What it lacks is an error with the list of what there is."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # Python's own questions, such as __file__
            raise AttributeError(name)
        raise AttributeError(_not_served(f'{self.__name__}.{name}'))


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of ``SERVED``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition('.')[0]
        if top not in TOP_LEVEL and not top.startswith(VMAMBA):
            return None
        if top != fullname and not isinstance(sys.modules.get(top), ServedModule):
            return None  # what an original lacks, it lacks
        if fullname not in SERVED:
            raise NotServedError(_not_served(fullname))
        # Every one is a package: `from module import name` then asks this finder for a name that the module lacks,
        # whose error has the list, where Python's own says no more than that the name cannot be imported.
        return ModuleSpec(fullname, self, origin='mmvim', is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ServedModule(spec.name, f'Served by mmvim; see {__package__}.')

    def exec_module(self, module: ModuleType) -> None:
        for name, place in SERVED[module.__name__].items():
            file, _, own = place.partition(':')
            setattr(module, name, getattr(importlib.import_module(file), own))


FINDER = _Finder()


def install() -> dict[str, str]:
    """Make the names of :func:`mmvim.compat.served` importable in this process, where no original is installed.

    Where one is, it is used as if nothing had been asked for, and one line on standard error says so. Asking again
    changes nothing.

    Returns:
        Each package that an original keeps, with where it is.

    Examples:
        >>> from mmvim.compat import install, remove
        >>> sorted(install())  # no original is installed
        []
        >>> from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
        >>> selective_scan_fn.__module__
        'mmvim.compat.inner'
        >>> remove()
    """
    kept = {top: where for top in TOP_LEVEL if (where := _original(top)) is not None}
    if FINDER not in sys.meta_path:
        sys.meta_path.append(FINDER)
        if kept:
            found = ', '.join(f'{top} ({where})' for top, where in kept.items())
            print(f'mmvim.compat: installed, so they are used and not replaced: {found}', file=sys.stderr)
    return kept


def remove() -> None:
    """Undo :func:`install`: the served modules can no longer be imported. Who has imported a function keeps it.

    Examples:
        >>> from mmvim.compat import install, remove
        >>> _ = install()
        >>> remove()
        >>> import selective_scan_cuda_core
        Traceback (most recent call last):
        ModuleNotFoundError: No module named 'selective_scan_cuda_core'
    """
    if FINDER in sys.meta_path:
        sys.meta_path.remove(FINDER)
    for name in [name for name, module in sys.modules.items() if isinstance(module, ServedModule)]:
        del sys.modules[name]


def _original(top: str) -> str | None:
    """Return where an installed package is that is not ours, or None if there is none."""
    module = sys.modules.get(top)
    if isinstance(module, ServedModule):
        return None
    if module is not None:
        return getattr(module, '__file__', None) or 'imported already'
    spec = importlib.util.find_spec(top)
    if spec is None or spec.loader is FINDER:
        return None
    return spec.origin or ', '.join(spec.submodule_search_locations or ())


def _not_served(name: str) -> str:
    return (
        f'mmvim.compat does not serve {name}; it serves {listing()}. For anything else install the original, which is '
        'then used instead'
    )
