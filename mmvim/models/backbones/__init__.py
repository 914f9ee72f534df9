"""Backbones, one file for each family."""

from mmvim.models.backbones.mamba_vision import MambaVision
from mmvim.models.backbones.vim import Vim

__all__ = [
    'MambaVision',
    'Vim',
]
