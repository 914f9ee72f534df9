"""What may stand in a checkpoint beside tensors.

Since PyTorch 2.6 ``torch.load`` refuses objects that are not plain weights, and it is right to: a pickle runs code. Two
kinds of files need a little more. MMEngine's checkpoints hold its message hub (``HistoryBuffer`` objects around NumPy
arrays) and numbers that NumPy made; publishers' training scripts add the ``argparse.Namespace`` of their options.
Naming these classes as safe is what PyTorch offers for it; loading stays restricted to them.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# Their pickles name the class of a dtype since NumPy 1.25.
_DTYPES = (
    'bool',
    'int8',
    'uint8',
    'int16',
    'uint16',
    'int32',
    'uint32',
    'int64',
    'uint64',
    'float16',
    'float32',
    'float64',
)


def _statistics_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, by which pickle names the methods in a ``HistoryBuffer``, and gives those alone."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise ValueError(f'a checkpoint asks for {name!r} of {owner!r}')
    return getattr(owner, name)


def checkpoint_globals() -> list:
    """What a checkpoint may name beside tensors, as ``torch.serialization.add_safe_globals`` takes it.

    Returns:
        list: Classes, functions, and pairs of a function and the name that it stands for.
    """
    core = np._core if hasattr(np, '_core') else np.core
    return [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        core.multiarray._reconstruct,
        core.multiarray.scalar,
        slice,
        argparse.Namespace,
        (_statistics_method, 'builtins.getattr'),
        *dict.fromkeys(type(np.dtype(name)) for name in _DTYPES),
    ]


def allow_checkpoint_globals() -> None:
    """Add :func:`checkpoint_globals` to the safe globals of PyTorch; ``torch.load`` itself is left alone."""
    torch.serialization.add_safe_globals(checkpoint_globals())
