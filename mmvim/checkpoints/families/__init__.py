"""What the publishers of each family do to a checkpoint: one module per family, behind one interface."""

from mmvim.checkpoints.families.base import FAMILIES, Family
from mmvim.checkpoints.families.efficient_vmamba import EfficientVMambaFamily
from mmvim.checkpoints.families.localvim import LocalVimFamily
from mmvim.checkpoints.families.localvmamba import LocalVMambaFamily
from mmvim.checkpoints.families.mamba_vision import MambaVisionFamily
from mmvim.checkpoints.families.msvmamba import MSVMambaFamily
from mmvim.checkpoints.families.plain_mamba import PlainMambaFamily
from mmvim.checkpoints.families.recognise import family_of, recognise
from mmvim.checkpoints.families.vim import VimFamily
from mmvim.checkpoints.families.vmamba import VMambaFamily
from mmvim.checkpoints.families.vrwkv import VRWKVFamily

__all__ = [
    'FAMILIES',
    'EfficientVMambaFamily',
    'Family',
    'LocalVMambaFamily',
    'LocalVimFamily',
    'MSVMambaFamily',
    'MambaVisionFamily',
    'PlainMambaFamily',
    'VMambaFamily',
    'VRWKVFamily',
    'VimFamily',
    'family_of',
    'recognise',
]
