"""Memory of a run on the CPU."""

import ctypes
import os
import sys

# Parameters of glibc's mallopt (malloc.h); for the second, the largest value that glibc accepts on 64-bit machines.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 1 << 25
_NEVER_TRIM = (1 << 31) - 1
USERS_OWN = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES')


def keep_freed_memory() -> bool:
    """Make glibc keep the memory of freed tensors for the next ones, in this process from now on.

    PyTorch allocates every tensor on a CPU anew. By default glibc returns the memory of large tensors to the system
    and fetches it again page by page, zeroed, which takes some 8 % of a training step of Vim-T (docs/benchmarks.md).
    Peak memory stays the same. Tensors above 32 MiB are not affected.

    Returns:
        True if it was done. It is not done with another C library, nor if the user has set
        ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES``.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.engine.launch import keep_freed_memory
        >>> with mock.patch.dict(os.environ, MALLOC_TRIM_THRESHOLD_='131072'):
        ...     keep_freed_memory()
        False
    """
    if any(name in os.environ for name in USERS_OWN) or not sys.platform.startswith('linux'):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'gnu_get_libc_version'):  # musl
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
    )
