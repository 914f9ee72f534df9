"""The dictionary of scan orders: each name, and the function that makes its index map for any H and W.

Position ``(i, j)`` of an (H, W) map has raster index ``i * W + j``; an order visits raster position ``order[t]`` at
step ``t``.

========================= ============================================================================================
name                      order
========================= ============================================================================================
``row``                   rows from the top, each from the left (raster order)
``col``                   columns from the left, each from the top
``zigzag_row``            rows from the top, the first from the left, then alternating (PlainMamba o1)
``zigzag_col``            columns from the left, the first from the top, then alternating (PlainMamba o3)
``zigzag_row_reverse``    the same backwards: rows from the bottom (PlainMamba o2)
``zigzag_col_reverse``    the same backwards: columns from the right (PlainMamba o4)
``window<w>``             windows of w x w in raster order, row by row inside a window (LocalMamba); the windows of the
                          last row and column are cut where the map ends
``window<w>_col``         the same windows in column order, column by column inside a window
``<name>_reverse``        any of them backwards
========================= ============================================================================================

:func:`scan_order` adds orders of your own. Those of the table are tensor arithmetic on H and W, done on the device that
the map is for, so that a compiled or exported model makes its maps at every size by itself.

Sources: VMamba, https://arxiv.org/abs/2401.10166, Fig. 3; PlainMamba, https://arxiv.org/abs/2403.17695, Fig. 3;
LocalMamba, https://arxiv.org/abs/2403.09338, Fig. 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ['available_scan_paths', 'scan_order']

OrderFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Order:
    """An entry of the dictionary.

    Attributes:
        pattern: Names that it answers to, a group for each parameter.
        parameters: Names of the parameters.
        function: Makes the index map from H, W, a device and the parameters.
        traceable: That function can be traced with symbolic sizes.
    """

    pattern: re.Pattern
    parameters: tuple[str, ...]
    function: OrderFunction
    traceable: bool


_ORDERS: dict[str, Order] = {}


def scan_order(name: str, traceable: bool = True) -> Callable[[OrderFunction], OrderFunction]:
    """Register a function as a scan order, so that :func:`scan_paths` and configs know it by name.

    The function is called as ``function(H, W, device)`` and returns the raster position of each step, int64 (H * W,),
    on ``device``. ``<name>_reverse``, the same order backwards, needs no function of its own.

    Write the function as tensor arithmetic on H and W (``torch.arange``, ``//``, ``%``, ``torch.where``); compiled and
    exported models then work at every size. A function that loops over H or W in Python, reads values of tensors or
    calls NumPy needs ``traceable=False``. **Such an order exports at fixed sizes only**: its map becomes a constant of
    the graph. ``torch.compile`` compiles anew for each size, and ``torch.export`` refuses a dynamic H or W.

    Args:
        name: Letters, digits and ``_``. Each ``<parameter>`` in it stands for a positive number that the function is
            given as a keyword: ``window<w>`` answers to 'window7' and calls ``function(H, W, device, w=7)``.
        traceable: The function is tensor arithmetic that can be traced with symbolic sizes. Defaults to True.

    Returns:
        A decorator that registers a function and returns it unchanged.

    Raises:
        ValueError: If ``name`` is malformed, ends in ``_reverse`` or is taken. :func:`scan_paths` raises it where the
            function returns anything but a permutation of 0..H*W-1 on ``device``, and TypeError for another dtype. It
            checks each size once, outside of traces.

    Examples:
        >>> import torch
        >>> from mmvim.ops import scan_order, scan_paths
        >>> @scan_order('upwards')  # rows from the bottom, each from the left
        ... def upwards(H, W, device):
        ...     t = torch.arange(H * W, device=device)
        ...     return (H - 1 - t // W) * W + t % W
        >>> [path.order().tolist() for path in scan_paths(('upwards', 'upwards_reverse'), 2, 3)]
        [[3, 4, 5, 0, 1, 2], [2, 1, 0, 5, 4, 3]]
    """
    if not isinstance(name, str) or not re.fullmatch(r'(\w|<[a-zA-Z]\w*>)+', name):
        raise ValueError(
            f"name of a scan order must be letters, digits, '_' and parameters such as '<w>', got {name!r}; "
            "write @scan_order('mine')"
        )
    if name.endswith('_reverse'):
        raise ValueError(
            f"name={name!r} of a scan order must not end in '_reverse', which stands for any order backwards; "
            f'register {name.removesuffix("_reverse")!r} alone'
        )
    pattern = re.compile(re.sub(r'<\w+>', '([1-9][0-9]*)', name))
    for other, order in _ORDERS.items():
        if order.pattern.fullmatch(_example(name)) or pattern.fullmatch(_example(other)):
            raise ValueError(f'name={name!r} of a scan order is taken by {other!r}; choose another name')

    def register(function: OrderFunction) -> OrderFunction:
        _ORDERS[name] = Order(pattern, tuple(re.findall(r'<(\w+)>', name)), function, traceable)
        return function

    return register


def _example(name: str) -> str:
    """Return one of the names that ``name`` stands for."""
    return re.sub(r'<\w+>', '1', name)


def available_scan_paths() -> tuple[str, ...]:
    """Return the names that :func:`scan_paths` knows, your own included.

    Returns:
        Every name and its reverse, with 'window<w>' standing for every window size.

    Examples:
        >>> from mmvim.ops import available_scan_paths
        >>> available_scan_paths()[:4]
        ('row', 'row_reverse', 'col', 'col_reverse')
        >>> 'window<w>_col_reverse' in available_scan_paths()
        True
    """
    return tuple(name + suffix for name in _ORDERS for suffix in ('', '_reverse'))


def find_order(stem: str) -> tuple[Order, dict[str, int]]:
    """Return the entry of a name without ``_reverse``, and the parameters in the name.

    Args:
        stem: A name such as 'window7'.

    Returns:
        The entry and, here, ``{'w': 7}``.

    Raises:
        ValueError: If the name is unknown.
    """
    for order in _ORDERS.values():
        match = order.pattern.fullmatch(stem)
        if match is not None:
            return order, dict(zip(order.parameters, map(int, match.groups()), strict=True))
    raise ValueError(f'unknown scan path {stem!r}; available: {", ".join(available_scan_paths())}')


@scan_order('row')
def _row(H: int, W: int, device: torch.device) -> Tensor:
    return torch.arange(H * W, device=device)


@scan_order('col')
def _col(H: int, W: int, device: torch.device) -> Tensor:
    t = torch.arange(H * W, device=device)
    return t % H * W + t // H


@scan_order('zigzag_row')
def _zigzag_row(H: int, W: int, device: torch.device) -> Tensor:
    i, j = _zigzag(H, W, device)
    return i * W + j


@scan_order('zigzag_col')
def _zigzag_col(H: int, W: int, device: torch.device) -> Tensor:
    j, i = _zigzag(W, H, device)
    return i * W + j


@scan_order('window<w>')
def _window(H: int, W: int, device: torch.device, w: int) -> Tensor:
    i, j = _windows(H, W, device, w)
    return i * W + j


@scan_order('window<w>_col')
def _window_col(H: int, W: int, device: torch.device, w: int) -> Tensor:
    j, i = _windows(W, H, device, w)
    return i * W + j


def _zigzag(H: int, W: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return row and column of each step along rows from the top, every second one backwards; (H * W,) each."""
    t = torch.arange(H * W, device=device)
    i, j = t // W, t % W
    return i, torch.where(i % 2 == 0, j, W - 1 - j)


def _windows(H: int, W: int, device: torch.device, w: int) -> tuple[Tensor, Tensor]:
    """Return row and column of each step through windows of w x w in raster order; (H * W,) each."""
    t = torch.arange(H * W, device=device)
    # Bands of w rows: only the last can be lower, so each begins w * W steps after the one before.
    band, t = t // (w * W), t % (w * W)
    height = (H - band * w).clamp(max=w)
    # Windows of w columns: only a band's last can be narrower, so each begins height * w steps after the one before.
    window, t = t // (height * w), t % (height * w)
    width = (W - window * w).clamp(max=w)
    return band * w + t // width, window * w + t % width


PUBLISHED = tuple(_ORDERS.values())  # permutations by construction: what they return needs no check
