"""Everything that a config builds from mmvim's ``MODELS`` and ``FUNCTIONS`` registries."""

from mmvim.models.backbones import (
    VRWKV,
    EfficientVMamba,
    LocalVim,
    LocalVMamba,
    MambaVision,
    MSVMamba,
    PlainMamba,
    Vim,
    ViTAdapter,
    VMamba,
)
from mmvim.models.complexity import register as _register_operators
from mmvim.models.heads import HiddenReadout, LinearReadout
from mmvim.models.layers import (
    ES2D,
    ChannelMix,
    LN2d,
    LocalScan2D,
    LocalVimMixer,
    MambaVisionMixer,
    MultiScaleScan2D,
    PlainMambaMixer,
    RMSNorm,
    SelectiveScan2D,
    SpatialMix,
    VimMixer,
)
from mmvim.models.necks import SimpleFPN
from mmvim.models.preprocessors import DetBandsPreprocessor, SegBandsPreprocessor
from mmvim.models.tiled import TiledSegmentor
from mmvim.ops import bi_wkv, selective_scan, selective_scan_paths
from mmvim.registry import FUNCTIONS

# The ops do not import the registry, so they are registered here.
FUNCTIONS.register_module(module=bi_wkv)
FUNCTIONS.register_module(module=selective_scan)
FUNCTIONS.register_module(module=selective_scan_paths)
_register_operators()

__all__ = [
    'ES2D',
    'VRWKV',
    'ChannelMix',
    'DetBandsPreprocessor',
    'EfficientVMamba',
    'HiddenReadout',
    'LN2d',
    'LinearReadout',
    'LocalScan2D',
    'LocalVMamba',
    'LocalVim',
    'LocalVimMixer',
    'MSVMamba',
    'MambaVision',
    'MambaVisionMixer',
    'MultiScaleScan2D',
    'PlainMamba',
    'PlainMambaMixer',
    'RMSNorm',
    'SegBandsPreprocessor',
    'SelectiveScan2D',
    'SimpleFPN',
    'SpatialMix',
    'TiledSegmentor',
    'VMamba',
    'ViTAdapter',
    'Vim',
    'VimMixer',
]
