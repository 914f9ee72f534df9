"""Root-mean-square norm with the residual add before it, in one pass over memory on a GPU."""

from mmvim.ops.rms_norm.interface import add_rms_norm
from mmvim.ops.rms_norm.reference import add_rms_norm_reference

__all__ = ['add_rms_norm', 'add_rms_norm_reference']
