"""mmvim: vision state-space backbones for MMSegmentation and MMDetection.

MMEngine imports this module while it looks for a registry, and hides an ImportError raised there behind "mmvim.Vim is
not in the registry". The module therefore imports nothing heavy: no torch, no MMEngine, no mmcv, no triton.
"""

from importlib import import_module
from typing import Any

from mmvim._config_bases import bases, register_config_bases

__version__ = '0.1.0'
__all__ = ['__version__', 'bases', 'optimize_for_inference']
# Where the names are that need PyTorch, which importing this module must not bring along.
_FILES = {'optimize_for_inference': 'mmvim.deploy.inference'}

register_config_bases()


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_FILES[name]), name)
