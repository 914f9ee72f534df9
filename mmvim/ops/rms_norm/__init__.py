"""Root-mean-square norm with the residual add before it, in one pass over memory on a GPU.

``interface.py`` has the public functions, ``reference.py`` the definition, which also runs wherever Triton does not;
``triton.py`` (with ``kernels.py``) is the GPU's.
"""

from mmvim.ops.rms_norm.interface import add_rms_norm, fuses_add
from mmvim.ops.rms_norm.reference import add_rms_norm_reference

__all__ = ['add_rms_norm', 'add_rms_norm_reference', 'fuses_add']
