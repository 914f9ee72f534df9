"""The selective scan: one definition, several backends behind two public functions.

``interface.py`` has the public functions, ``arguments.py`` checks what they get and brings it into one form
(:class:`ScanArguments`), ``operators.py`` has the two operators that PyTorch sees, with their derivative and FLOPs, and
runs the backend that serves a call:

- 'torch': ``plain.py``, any device.
- 'native': ``native.py``, C++ for CPUs.
- 'triton': ``triton/``, kernels for GPUs.
- 'reference': ``reference.py``, the definition that the others are tested against.
"""

from collections.abc import Callable

from mmvim.ops.backends import Backend
from mmvim.ops.native.build import available as _native_available
from mmvim.ops.native.load import default_for as _native_default
from mmvim.ops.native.load import why_not as _native_why_not
from mmvim.ops.selective_scan import native as _native
from mmvim.ops.selective_scan import plain as _plain
from mmvim.ops.selective_scan import triton as _triton
from mmvim.ops.selective_scan.interface import selective_scan, selective_scan_paths
from mmvim.ops.selective_scan.operators import BACKENDS, Implementation
from mmvim.ops.selective_scan.reference import scan_reference
from mmvim.ops.triton_host import device as _device


def register_backend(name: str, backend: Backend) -> None:
    """Make a backend of the scan known.

    Args:
        name: What ``backend=`` and the environment variable call it.
        backend: A :class:`~mmvim.ops.backends.Backend`, whose ``implementation`` is an :class:`Implementation`.

    Examples:
        >>> from mmvim.ops.backends import Backend
        >>> from mmvim.ops.selective_scan import backends, plain, register_backend
        >>> register_backend('mine', Backend(plain.IMPLEMENTATION, lambda: (True, 'an example')))
        >>> backends().pop('mine')
        (True, 'an example')
    """
    BACKENDS.register(name, backend)


def backends() -> dict[str, tuple[bool, str]]:
    """Return every backend's name with whether it can run on this machine, and why (not).

    Examples:
        >>> from mmvim.ops import backends
        >>> backends()['torch']
        (True, 'plain PyTorch, any device')
    """
    return BACKENDS.available()


def _run_reference(args, save):
    return *scan_reference(args), args.A.new_empty(0)


_any: Callable[[], tuple[bool, str]] = lambda: (True, 'plain PyTorch, any device')  # noqa: E731
register_backend('torch', Backend(_plain.IMPLEMENTATION, _any))
register_backend(
    'native', Backend(_native.IMPLEMENTATION, _native_available, _native_default, _native_why_not, _native.can_run)
)
register_backend(
    'triton', Backend(_triton.IMPLEMENTATION, _device.available, _device.default_for, _device.why_not, _triton.can_run)
)
register_backend(
    'reference',
    Backend(Implementation(_run_reference, None, lambda args: 0), lambda: (True, 'the definition, any device; slow')),
)

__all__ = ['backends', 'register_backend', 'selective_scan', 'selective_scan_paths']
