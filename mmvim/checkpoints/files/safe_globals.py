"""The objects that a checkpoint may hold beside tensors.

Since PyTorch 2.6 ``torch.load`` refuses objects that are not plain weights, and rightly so: a pickle runs code. Two
kinds of files need a little more. MMEngine's checkpoints hold its message hub (``HistoryBuffer`` objects around NumPy
arrays) and NumPy scalars; publishers' training scripts add the ``argparse.Namespace`` of their options, or the node of
yacs (https://github.com/rbgirshick/yacs) that holds them, as scripts descended from Swin's do. PyTorch's remedy is to
name these classes as safe; loading stays restricted to them. yacs need not be there: its node, a dict with attributes,
becomes an ``OrderedDict``.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# Since NumPy 1.25 its pickles name the class of a dtype.
_DTYPES = ('?', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')


def _statistics_method(owner: type, name: str) -> Callable:
    """Stand in for ``getattr``, by which pickle names the methods in a ``HistoryBuffer``, and allow only those."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise ValueError(f'a checkpoint asks for {name!r} of {owner!r}')
    return getattr(owner, name)


def checkpoint_globals() -> list:
    """List what a checkpoint may name beside tensors, in the form that ``torch.serialization.add_safe_globals`` takes.

    Returns:
        Classes, functions, and pairs of a function and the name that it stands for.

    Examples:
        >>> import argparse
        >>> from mmvim import checkpoints
        >>> argparse.Namespace in checkpoints.checkpoint_globals()
        True
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
        (OrderedDict, 'yacs.config.CfgNode'),
        (_statistics_method, 'builtins.getattr'),
        *dict.fromkeys(type(np.dtype(name)) for name in _DTYPES),
    ]


def allow_checkpoint_globals() -> None:
    """Add :func:`checkpoint_globals` to PyTorch's safe globals; ``torch.load`` itself is left alone.

    Examples:
        >>> import argparse
        >>> import tempfile
        >>> import torch
        >>> from mmvim import checkpoints
        >>> checkpoints.allow_checkpoint_globals()
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save({'args': argparse.Namespace(lr=0.1)}, file.name)
        ...     torch.load(file.name, weights_only=True)
        {'args': Namespace(lr=0.1)}
    """
    torch.serialization.add_safe_globals(checkpoint_globals())
