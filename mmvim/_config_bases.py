"""Make ``mmvim::`` and ``mmseg::`` usable in ``_base_`` of a config.

MMEngine resolves ``pkg::dir/file.py`` through a table of the packages it knows, by the name of their *distribution*.
mmvim is not in that table, and the maintained MMSegmentation is distributed as ``onedl-mmsegmentation`` while the table
says ``mmsegmentation``. Both entries are added here; an entry that works already is left alone.
"""

import importlib.util
from importlib import metadata


def _is_distributed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def register_config_bases() -> None:
    """Add ``mmvim`` and, where its distribution has another name, ``mmseg`` and ``mmdet`` to MMEngine's table."""
    try:
        from mmengine.config.utils import MODULE2PACKAGE
    except ImportError:  # without MMEngine there are no configs to resolve; the op still works
        return
    MODULE2PACKAGE.setdefault('mmvim', 'mmvim')
    for module in ('mmseg', 'mmdet'):
        distribution = MODULE2PACKAGE.get(module, module)
        if not _is_distributed(distribution) and importlib.util.find_spec(module) is not None:
            MODULE2PACKAGE[module] = module
