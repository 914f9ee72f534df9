"""Backbones, one file for each family."""

from mmvim.models.backbones.efficient_vmamba import EfficientVMamba
from mmvim.models.backbones.localvim import LocalVim
from mmvim.models.backbones.localvmamba import LocalVMamba
from mmvim.models.backbones.mamba_vision import MambaVision
from mmvim.models.backbones.msvmamba import MSVMamba
from mmvim.models.backbones.plain_mamba import PlainMamba
from mmvim.models.backbones.vim import Vim
from mmvim.models.backbones.vmamba import VMamba
from mmvim.models.backbones.vrwkv import VRWKV

__all__ = [
    'VRWKV',
    'EfficientVMamba',
    'LocalVMamba',
    'LocalVim',
    'MSVMamba',
    'MambaVision',
    'PlainMamba',
    'VMamba',
    'Vim',
]
