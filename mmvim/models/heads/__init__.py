"""Heads that run on features alone: those of the OpenMMLab libraries need data samples."""

from mmvim.models.heads.linear_readout import HiddenReadout, LinearReadout

__all__ = ['HiddenReadout', 'LinearReadout']
