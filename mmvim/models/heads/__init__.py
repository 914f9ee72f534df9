"""Heads that neither library has in a form that needs no data samples."""

from mmvim.models.heads.linear_readout import LinearReadout

__all__ = ['LinearReadout']
