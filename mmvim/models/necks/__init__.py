"""Necks that MMSegmentation and MMDetection lack."""

from mmvim.models.necks.simple_fpn import SimpleFPN

__all__ = ['SimpleFPN']
