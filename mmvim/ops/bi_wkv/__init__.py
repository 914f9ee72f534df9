"""The bidirectional WKV of Vision-RWKV.

``interface.py`` has the public function, ``operators.py`` the two operators that PyTorch sees; ``plain.py``,
``native.py`` and ``triton.py`` (with ``kernels.py``) are the backends, ``reference.py`` the definition.
"""

from mmvim.ops.backends import Backend
from mmvim.ops.bi_wkv import native as _native
from mmvim.ops.bi_wkv import plain as _plain
from mmvim.ops.bi_wkv import triton as _triton
from mmvim.ops.bi_wkv.interface import bi_wkv
from mmvim.ops.bi_wkv.operators import BACKENDS, Implementation
from mmvim.ops.bi_wkv.reference import bi_wkv_reference
from mmvim.ops.native.build import available as _native_available
from mmvim.ops.native.load import default_for as _native_default
from mmvim.ops.native.load import why_not as _native_why_not
from mmvim.ops.triton_host import device as _device


def _run_reference(decay, bonus, k, v, published):
    return bi_wkv_reference(decay, bonus, k.to(decay.dtype), v.to(decay.dtype), published).to(k.dtype)


BACKENDS.register('torch', Backend(_plain.IMPLEMENTATION, lambda: (True, 'plain PyTorch, any device')))
BACKENDS.register(
    'native', Backend(_native.IMPLEMENTATION, _native_available, _native_default, _native_why_not, _native.can_run)
)
BACKENDS.register(
    'triton',
    Backend(_triton.IMPLEMENTATION, _device.available, _device.default_for, _device.why_not, _triton.can_run),
)
BACKENDS.register(
    'reference', Backend(Implementation(_run_reference, None), lambda: (True, 'the definition, any device; slow'))
)

__all__ = ['bi_wkv']
