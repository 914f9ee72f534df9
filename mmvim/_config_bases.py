"""Make ``mmvim::`` and ``mmseg::`` usable in ``_base_`` of a config.

MMEngine resolves ``pkg::dir/file.py`` through a table that maps a package's import name to the name of its
*distribution*, and then looks for ``.mim/configs`` in that distribution. Two things go wrong for a plugin:

- mmvim is not in the table, and the maintained MMSegmentation is distributed as ``onedl-mmsegmentation`` while the
  table says ``mmsegmentation``;
- MMEngine 0.10.7 looks for an editable install in site-packages, where only its link is.

A name that is no distribution sends every MMEngine to the import system instead, which is right in each of these
cases: MMEngine then takes the folder of the named module's file. So ``mmseg`` is entered as itself, and ``mmvim`` as
this module, whose folder is the package's.

The table is patched when mmvim is imported. MMEngine reads ``_base_`` before it obeys ``custom_imports``, so a script
other than mmvim's own ``tools/train.py`` has to ``import mmvim`` before it reads such a config.
"""

import importlib.util


def _is_importable(module: str) -> bool:
    """Tell whether a top-level module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: a stand-in in sys.modules without a spec
        return False


def register_config_bases() -> None:
    """Add ``mmvim`` and, where it can be imported, ``mmseg`` to MMEngine's table of packages with configs.

    Does nothing without MMEngine: there are no configs to resolve then, and the operators still work.
    """
    try:
        from mmengine.config.utils import MODULE2PACKAGE
    except ImportError:
        return
    MODULE2PACKAGE.setdefault('mmvim', __name__)
    if _is_importable('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'
