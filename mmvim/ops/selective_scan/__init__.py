"""The selective scan: one definition, several backends behind two public functions.

`interface.py` has the public functions, `arguments.py` checks what they get and brings it into one form
(:class:`ScanArguments`), `backends.py` chooses who runs it. A backend is a function from that form to the output and
the last state; :func:`register_backend` is all that a further one needs:

- 'torch': `operator.py` defines the torch.library operators; `problem.py` holds one call, `plan.py` cuts the work,
  `access.py` reads and writes along paths, `chunk.py`, `forward.py`, `backward.py` and `whole.py` compute;
  `single_state.py`, `single_state_backward.py`, `walk.py` and `tree_scan.py` do where there is one state a channel.
- 'native': C++ for CPUs, see `native/`.
- 'triton': kernels for GPUs, see `triton/`.
- 'reference': `reference.py`, the definition that the others are tested against.

`autograd.py` and `flops.py` tell PyTorch of the derivative and the FLOPs of each backend's operators.
"""

from mmvim.ops.backends import backends, register_backend
from mmvim.ops.native.build import available as _native_available
from mmvim.ops.selective_scan import native as _native
from mmvim.ops.selective_scan import triton as _triton
from mmvim.ops.selective_scan.interface import selective_scan, selective_scan_paths
from mmvim.ops.selective_scan.operator import run_operator
from mmvim.ops.selective_scan.reference import scan_reference

register_backend('torch', run_operator, lambda: (True, 'plain PyTorch, any device'))
register_backend('native', _native.run_native, _native_available, _native.serves, _native.prepare)
register_backend('triton', _triton.run_triton, _triton.available, _triton.serves, _triton.prepare)
register_backend('reference', scan_reference, lambda: (True, 'the definition, any device; slow'))

__all__ = ['backends', 'register_backend', 'selective_scan', 'selective_scan_paths']
