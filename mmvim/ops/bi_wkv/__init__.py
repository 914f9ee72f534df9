"""The bidirectional WKV of Vision-RWKV.

``interface.py`` has the public function, ``operators.py`` the two operators that PyTorch sees; ``plain.py`` is the
backend of any device, ``reference.py`` the definition.
"""

from mmvim.ops.backends import Backend
from mmvim.ops.bi_wkv import plain as _plain
from mmvim.ops.bi_wkv.interface import bi_wkv
from mmvim.ops.bi_wkv.operators import BACKENDS, Implementation
from mmvim.ops.bi_wkv.reference import bi_wkv_reference


def _run_reference(decay, bonus, k, v, published):
    return bi_wkv_reference(decay, bonus, k.to(decay.dtype), v.to(decay.dtype), published).to(k.dtype)


BACKENDS.register('torch', Backend(_plain.IMPLEMENTATION, lambda: (True, 'plain PyTorch, any device')))
BACKENDS.register(
    'reference', Backend(Implementation(_run_reference, None), lambda: (True, 'the definition, any device; slow'))
)

__all__ = ['bi_wkv']
