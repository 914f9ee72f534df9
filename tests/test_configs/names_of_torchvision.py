"""The names of torchvision that MMPreTrain imports, for machines where torchvision is missing or does not fit PyTorch.

MMPreTrain's transforms, heads and metrics import it at the top of their modules, and the configs here call nothing of
it: resizing and cropping are mmcv's. Nothing here does anything, so that a call would be an AttributeError.
"""

import enum
import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

_MODULES = (
    'torchvision',
    'torchvision.transforms',
    'torchvision.transforms.functional',
    'torchvision.transforms.transforms',
    'torchvision.ops',
    'torchvision.ops.boxes',
)


def _stand_ins() -> dict[str, types.ModuleType]:
    modules = {name: types.ModuleType(name) for name in _MODULES}
    for name, module in modules.items():
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(modules[parent], child, module)
    modules['torchvision.transforms.transforms'].InterpolationMode = enum.Enum(
        'InterpolationMode', 'NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS'
    )
    modules['torchvision.transforms'].RandomResizedCrop = type('RandomResizedCrop', (), {})
    return modules


@contextmanager
def torchvision_or_its_names() -> Iterator[None]:
    """Import what needs torchvision in here: the real one stays, stand-ins are taken away again."""
    try:
        importlib.import_module('torchvision')
    except (ImportError, RuntimeError):  # RuntimeError: its compiled operators are for another PyTorch
        pass
    else:
        yield
        return
    for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
        del sys.modules[name]
    sys.modules.update(_stand_ins())
    try:
        yield
    finally:
        for name in _MODULES:
            sys.modules.pop(name, None)
