"""Say once when the OpenMMLab packages are not those that mmvim is tested with; other versions often work."""

import importlib

from mmvim.engine.launch.errors import warn

# One row a family: the maintained packages (onedl-*) and the original ones, which share their import names.
TESTED = {
    'mmengine': ('0.10.12', '0.10.7'),
    'mmcv': ('2.3.6', '2.1.0'),
    'mmseg': ('1.4.2', '1.2.2'),
    'mmdet': ('3.5.1', '3.3.0'),
}


def untested() -> list[str]:
    """Name and version of each installed package outside of :data:`TESTED`."""
    found = []
    for name, versions in TESTED.items():
        try:
            version = getattr(importlib.import_module(name), '__version__', 'unknown')
        except ImportError:
            continue
        if version not in versions:
            found.append(f'{name} {version}')
    return found


def warn_if_untested() -> None:
    """Print one warning line that names the packages of :func:`untested`, if there are any."""
    names = untested()
    if names:
        tested = '; '.join(f'{name} {" or ".join(versions)}' for name, versions in TESTED.items())
        warn(f'not tested with {", ".join(names)} (tested: {tested})')
