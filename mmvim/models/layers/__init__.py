"""Building blocks of the backbones; the mixers and norms are registered for use in a user's own backbone."""

from mmvim.models.layers.es2d import ES2D
from mmvim.models.layers.local_scan import LocalScan2D, LocalVimMixer
from mmvim.models.layers.mamba_vision_mixer import MambaVisionMixer
from mmvim.models.layers.multi_scale_scan import MultiScaleScan2D
from mmvim.models.layers.norm import LN2d, RMSNorm, build_norm
from mmvim.models.layers.plain_mamba_mixer import PlainMambaMixer
from mmvim.models.layers.selective_scan_2d import SelectiveScan2D
from mmvim.models.layers.vim_mixer import VimMixer
from mmvim.models.layers.vrwkv_layers import ChannelMix, SpatialMix

__all__ = [
    'ES2D',
    'ChannelMix',
    'LN2d',
    'LocalScan2D',
    'LocalVimMixer',
    'MambaVisionMixer',
    'MultiScaleScan2D',
    'PlainMambaMixer',
    'RMSNorm',
    'SelectiveScan2D',
    'SpatialMix',
    'VimMixer',
    'build_norm',
]
