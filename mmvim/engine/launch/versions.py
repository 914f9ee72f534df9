"""One warning when the OpenMMLab packages are not those that mmvim is tested with; other versions often work."""

import importlib

from mmvim.engine.launch.errors import warn

# Two versions of each: the maintained package's (onedl-*) and the original's, which share an import name.
TESTED = {
    'mmengine': ('0.10.12', '0.10.7'),
    'mmcv': ('2.3.6', '2.1.0'),
    'mmseg': ('1.4.2', '1.2.2'),
    'mmdet': ('3.5.1', '3.3.0'),
}


def untested() -> list[str]:
    """Return name and version of each installed package whose version is not in :data:`TESTED`.

    Examples:
        >>> from unittest import mock
        >>> from mmvim.engine.launch import versions
        >>> with mock.patch.dict(versions.TESTED, {'mmengine': ('0.1',)}, clear=True):
        ...     [name.split()[0] for name in versions.untested()]
        ['mmengine']
    """
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
    """Print one warning line that names the packages of :func:`untested`, if there are any.

    Examples:
        >>> from unittest import mock
        >>> import mmengine
        >>> from mmvim.engine.launch import versions, warn_if_untested
        >>> with mock.patch.dict(versions.TESTED, {'mmengine': (mmengine.__version__,)}, clear=True):
        ...     warn_if_untested()  # prints nothing: this version is tested
    """
    names = untested()
    if names:
        tested = '; '.join(f'{name} {" or ".join(versions)}' for name, versions in TESTED.items())
        warn(f'not tested with {", ".join(names)} (tested: {tested})')
