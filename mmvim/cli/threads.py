"""How PyTorch's threads wait for work. Imported before PyTorch, and without it."""

import os
from pathlib import Path

# What a user may have set about OpenMP's threads; then nothing is changed.
USERS_OWN = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS', 'GOMP_CPU_AFFINITY')
_SPINS = '1000'  # some microseconds


def core_count() -> int:
    """Return how many cores this process may use: those of the machine, of its affinity and of its container.

    Examples:
        >>> import os
        >>> from mmvim.cli.threads import core_count
        >>> 1 <= core_count() <= os.cpu_count()
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == 'max' else max(1, min(cores, int(quota) // int(period)))


def is_busy() -> bool:
    """Check whether others have kept half of the cores or more for the last minute.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli.threads import is_busy
        >>> with mock.patch('os.getloadavg', lambda: (1e3, 1e3, 1e3)):
        ...     is_busy()
        True
    """
    return hasattr(os, 'getloadavg') and os.getloadavg()[0] >= core_count() / 2


def let_threads_sleep() -> bool:
    """Make OpenMP's threads sleep after some microseconds without work, on a machine that is busy.

    By default they wait by spinning, for milliseconds. On a quiet machine that is best, data workers or not; beside
    other processes they keep the cores from whoever has work, and steps take half as long again and up to ten times
    as long now and then (docs/benchmarks.md). It must come before PyTorch is imported, and holds for this process and
    those that it starts.

    Returns:
        True if it was done; False if the machine is quiet, or the user has set a variable of OpenMP's about it.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli.threads import let_threads_sleep
        >>> with mock.patch.dict(os.environ, OMP_WAIT_POLICY='ACTIVE'):
        ...     let_threads_sleep()
        False
    """
    if any(name in os.environ for name in USERS_OWN) or not is_busy():
        return False
    os.environ['GOMP_SPINCOUNT'] = _SPINS
    return True


def sleeping() -> bool:
    """Check whether threads were made to sleep, here or in the process that started this one.

    Examples:
        >>> import os
        >>> from unittest import mock
        >>> from mmvim.cli.threads import sleeping
        >>> with mock.patch.dict(os.environ, GOMP_SPINCOUNT='1000'):
        ...     sleeping()
        True
    """
    return os.environ.get('GOMP_SPINCOUNT') == _SPINS
