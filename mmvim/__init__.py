"""mmvim: vision state-space backbones for MMSegmentation and MMDetection.

MMEngine imports this module while it looks for a registry, and hides an ImportError raised there behind "mmvim.Vim is
not in the registry". The module therefore imports nothing heavy: no torch, no MMEngine, no mmcv, no triton.
"""

from mmvim._config_bases import bases, register_config_bases

__version__ = '0.1.0'
__all__ = ['__version__', 'bases']

register_config_bases()
