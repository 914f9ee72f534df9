"""What has been checked once need not be checked again: arguments of a call, by the shapes and dtypes of its tensors.

The checks of ``arguments.py`` depend on the tensors' shapes, strides, dtypes and devices and on the flags, and so do
the views that they return. A recipe is what one call has found: a later one of the same kind takes its views from
there. Calls whose tensors are copied, to another dtype or for groups, are checked each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mmvim.ops.scan_paths import ScanPath
from mmvim.ops.selective_scan.arguments import ScanArguments

MOST_RECIPES = 256
"""Recipes that are kept; the oldest makes room. A model needs one for each shape of a scan."""

_RECIPES: dict[Hashable, Recipe] = {}
_LOCK = threading.Lock()


class Recipe(NamedTuple):
    """How the arguments of a call come from its tensors.

    Attributes:
        views: For each tensor its shape and strides as an argument; None where it is taken as it is.
        rest: The further arguments.
        indices: The index maps that the key names by identity; to be kept as long as it.
    """

    views: tuple[tuple[tuple[int, ...], tuple[int, ...]] | None, ...]
    rest: tuple[Any, ...]
    indices: tuple[Tensor | None, ...]


def normalise(check: Callable[..., ScanArguments], tensors: Sequence[Tensor | None], flags: dict) -> ScanArguments:
    """Return the arguments of a call, checked, in the common form.

    Args:
        check: :func:`~.arguments.single_path` or :func:`~.arguments.several_paths`.
        tensors: Plain tensors, or None, as the check takes them by position.
        flags: What it takes by name.

    Raises:
        TypeError, ValueError: See the public functions.
    """
    found = _key_of(check, tensors, flags)
    if found is None:
        return check(*tensors, **flags)
    key, indices = found
    recipe = _RECIPES.get(key)
    if recipe is not None:
        views: list[Any] = [
            x if view is None or x is None else x.as_strided(*view)
            for x, view in zip(tensors, recipe.views, strict=True)
        ]
        return ScanArguments(*views, *recipe.rest)
    args = check(*tensors, **flags)
    seen = [_view(x, y) for x, y in zip(tensors, args, strict=False)]
    if False not in seen:
        with _LOCK:
            while len(_RECIPES) >= MOST_RECIPES:
                del _RECIPES[next(iter(_RECIPES))]
            _RECIPES[key] = Recipe(tuple(seen), tuple(args[len(tensors) :]), indices)
    return args


def _view(x: Tensor | None, y: Any) -> Any:
    """Return how an argument sees a tensor, or False if it has other memory."""
    if x is y:
        return None
    if x is None or y is None or x.dtype != y.dtype or x.data_ptr() != y.data_ptr():
        return False
    return tuple(y.shape), y.stride()


def _key_of(
    check: Callable, tensors: Sequence[Tensor | None], flags: dict
) -> tuple[Hashable, tuple[Tensor | None, ...]] | None:
    """Return all that a recipe depends on, and the index maps among it; None if a path is a tensor of the user's own.

    Layers make the paths of a size anew for each call, but their maps come out of one cache: see :func:`scan_paths`.
    """
    key: list[Any] = [check]
    for x in tensors:
        key.append(None if x is None else (x.shape, x.stride(), x.dtype, x.device))
    indices: tuple[Tensor | None, ...] = ()
    for name, value in flags.items():
        if name == 'paths':
            if not isinstance(value, (tuple, list)):
                return None
            for path in value:
                if isinstance(path, ScanPath):
                    index = path.index
                    indices += (index,)
                    key.append((id(index), path.length, path.reverse, path.partial, path.key))
                elif isinstance(path, str):
                    key.append(path)
                else:
                    return None
        else:
            key.append(tuple(value) if isinstance(value, list) else value)
    try:
        hash(found := tuple(key))
    except TypeError:  # of flags that are what they should not be, which the check tells
        return None
    return found, indices


def clear() -> None:
    """Forget all recipes."""
    with _LOCK:
        _RECIPES.clear()
