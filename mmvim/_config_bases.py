"""Make ``mmvim::`` and ``mmseg::`` usable in ``_base_`` of a config.

MMEngine resolves ``pkg::dir/file.py`` through a table that maps a package's import name to the name of its
*distribution*, and then looks for ``.mim/configs`` in that distribution. Two things go wrong for a plugin:

- mmvim is not in the table, and the maintained MMSegmentation is distributed as ``onedl-mmsegmentation`` while the
  table says ``mmsegmentation``;
- MMEngine 0.10.7 looks for an editable install in site-packages, which holds only a link to it.

If the table names something that is not a distribution, every version of MMEngine falls back to the import system and
takes the folder of the named module's file, which is right in both cases. So ``mmseg`` is entered as itself, and
``mmvim`` as this module, whose folder is the package's.

The table is patched when mmvim is imported. MMEngine reads ``_base_`` before it obeys ``custom_imports``, so a script
other than mmvim's own ``tools/train.py`` has to ``import mmvim`` before it reads such a config.
"""

import importlib.util


def _is_importable(module: str) -> bool:
    """Check whether a top-level module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: a stand-in in sys.modules without a spec
        return False


def register_config_bases() -> None:
    """Add ``mmvim`` and, where it can be imported, ``mmseg`` to MMEngine's table of packages with configs.

    Does nothing without MMEngine: there are no configs to resolve then, and the operators still work.

    Examples:
        >>> import mmvim  # calls it
        >>> from mmengine.config.utils import MODULE2PACKAGE
        >>> MODULE2PACKAGE['mmvim']
        'mmvim._config_bases'
    """
    try:
        from mmengine.config.utils import MODULE2PACKAGE
    except ImportError:
        return
    MODULE2PACKAGE.setdefault('mmvim', __name__)
    if _is_importable('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'
