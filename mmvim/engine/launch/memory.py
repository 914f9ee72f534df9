"""Memory of a run on the CPU."""

import ctypes
import os
import sys

# Parameters of glibc's mallopt (malloc.h), and for the second the most that glibc takes on 64-bit machines.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 1 << 25
_NEVER_TRIM = (1 << 31) - 1
USERS_OWN = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES')


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones, in this process from now on.

    PyTorch allocates each tensor on a CPU anew. Left alone, glibc hands the larger ones' memory back to the system and
    fetches it again page by page, cleared: in a training step of Vim-T some 8 % of the time (docs/benchmarks.md).
    The peak of memory stays the same. Tensors above 32 MiB are out of reach.

    Returns:
        Whether it was done. It is not with another C library, nor where ``MALLOC_TRIM_THRESHOLD_``,
        ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES`` say what the user wants.
    """
    if any(name in os.environ for name in USERS_OWN) or not sys.platform.startswith('linux'):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'gnu_get_libc_version'):  # musl
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
    )
