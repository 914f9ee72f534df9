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
``window<w>_padded``      the same with padding steps instead of the cut: every window has w * w steps, and where it
                          reaches beyond the bottom or the right of the map, -1 (as LocalMamba's models scan)
``window<w>_padded_col``  the same in column order
``atrous<p>_<k>``         every p-th cell of every p-th row, k = 1..p * p for the p * p such grids: from row (k - 1) % p
                          and column (k - 1) // p on; row by row where that row is even, else column by column. Padded
                          to ceil(H / p) * ceil(W / p) steps (EfficientVMamba, whose four paths are p = 2)
``diagonal``              anti-diagonals from the top left corner, each from its upper end (omnidirectional scans)
``antidiagonal``          the same mirrored: diagonals from the top right corner
``zigzag_diagonal``       as ``diagonal``, every second one backwards: a sweep that never jumps
``zigzag_antidiagonal``   as ``antidiagonal``, every second one backwards
``hilbert``               a Hilbert curve for any H and W; exports at fixed sizes only, see :func:`scan_order`
``<name>_reverse``        any of them backwards
========================= ============================================================================================

:func:`scan_order` adds orders of your own. Those of the table are tensor arithmetic on H and W, done on the device that
the map is for, so that a compiled or exported model makes its maps at every size by itself. (Exported for many sizes,
an atrous path serves those that give it two steps or more.)

Sources: VMamba, https://arxiv.org/abs/2401.10166, Fig. 3; PlainMamba, https://arxiv.org/abs/2403.17695, Fig. 3;
LocalMamba, https://arxiv.org/abs/2403.09338, Fig. 3; EfficientVMamba, https://arxiv.org/abs/2403.09977, Sec. 4.1.

On a map of 3 x 4 cells the numbers say at which step a cell is visited::

    row          col          zigzag_row   zigzag_col   window2      window2_padded
     0  1  2  3   0  3  6  9   0  1  2  3   0  5  6 11   0  1  4  5    0  1  4  5
     4  5  6  7   1  4  7 10   7  6  5  4   1  4  7 10   2  3  6  7    2  3  6  7
     8  9 10 11   2  5  8 11   8  9 10 11   2  3  8  9   8  9 10 11    8  9 12 13

    atrous2_1    atrous2_2    atrous2_3    diagonal     zigzag_diagonal  hilbert
     0  .  1  .   .  .  .  .   .  0  .  1   0  1  3  6    0  1  5  6     0  1 10 11
     .  .  .  .   0  .  2  .   .  .  .  .   2  4  7  9    2  4  7 10     3  2  9  8
     2  .  3  .   .  .  .  .   .  2  .  3   5  8 10 11    3  8  9 11     4  5  6  7
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ['available_scan_paths', 'scan_order']

OrderFunction = Callable[..., Tensor]
Cell = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Order:
    """An entry of the dictionary.

    Attributes:
        pattern: Names that it answers to, a group for each parameter.
        parameters: Names of the parameters.
        function: Makes the index map from H, W, a device and the parameters.
        traceable: That function can be traced with symbolic sizes.
        partial: Its maps may leave positions out and have padding steps, -1.
    """

    pattern: re.Pattern
    parameters: tuple[str, ...]
    function: OrderFunction
    traceable: bool
    partial: bool


_ORDERS: dict[str, Order] = {}


def scan_order(name: str, traceable: bool = True, partial: bool = False) -> Callable[[OrderFunction], OrderFunction]:
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
        partial: The function may return any number of steps, int64 (T,): positions may be left out, and -1 stands for a
            padding step, at which the scan reads zeros and writes nothing. Defaults to False.

    Returns:
        A decorator that registers a function and returns it unchanged.

    Raises:
        ValueError: If ``name`` is malformed, ends in ``_reverse`` or is taken. :func:`scan_paths` raises it where the
            function returns anything but a permutation of 0..H*W-1 on ``device`` (partial: a position twice, or one
            outside of the map), and TypeError for another dtype. It checks each size once, outside of traces.

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
        _ORDERS[name] = Order(pattern, tuple(re.findall(r'<(\w+)>', name)), function, traceable, partial)
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


@scan_order('window<w>_padded', partial=True)
def _window_padded(H: int, W: int, device: torch.device, w: int) -> Tensor:
    i, j = _full_windows(H, W, device, w)
    return _cells(i, j, H, W)


@scan_order('window<w>_padded_col', partial=True)
def _window_padded_col(H: int, W: int, device: torch.device, w: int) -> Tensor:
    j, i = _full_windows(W, H, device, w)
    return _cells(i, j, H, W)


@scan_order('atrous<p>_<k>', partial=True)
def _atrous(H: int, W: int, device: torch.device, p: int, k: int) -> Tensor:
    if k > p * p:
        raise ValueError(f'scan path atrous{p}_{k}: step {p} has paths 1..{p * p}, atrous{p}_1 to atrous{p}_{p * p}')
    height, width = (H + p - 1) // p, (W + p - 1) // p
    t = torch.arange(height * width, device=device)
    first_row, first_column = (k - 1) % p, (k - 1) // p
    i, j = (t // width, t % width) if first_row % 2 == 0 else (t % height, t // height)
    return _cells(first_row + p * i, first_column + p * j, H, W)


@scan_order('diagonal')
def _diagonal(H: int, W: int, device: torch.device) -> Tensor:
    return _by_diagonals(H, W, device, mirror=False, zigzag=False)


@scan_order('antidiagonal')
def _antidiagonal(H: int, W: int, device: torch.device) -> Tensor:
    return _by_diagonals(H, W, device, mirror=True, zigzag=False)


@scan_order('zigzag_diagonal')
def _zigzag_diagonal(H: int, W: int, device: torch.device) -> Tensor:
    return _by_diagonals(H, W, device, mirror=False, zigzag=True)


@scan_order('zigzag_antidiagonal')
def _zigzag_antidiagonal(H: int, W: int, device: torch.device) -> Tensor:
    return _by_diagonals(H, W, device, mirror=True, zigzag=True)


@scan_order('hilbert', traceable=False)
def _hilbert(H: int, W: int, device: torch.device) -> Tensor:
    along, across = ((0, W), (H, 0)) if W >= H else ((H, 0), (0, W))
    return torch.tensor([i * W + j for i, j in _curve((0, 0), along, across)], device=device)


def _cells(i: Tensor, j: Tensor, H: int, W: int) -> Tensor:
    """Return the raster positions of rows and columns, -1 where they lie beyond the map."""
    return torch.where((i < H) & (j < W), i * W + j, -1)


def _full_windows(H: int, W: int, device: torch.device, w: int) -> tuple[Tensor, Tensor]:
    """Return row and column of each step through whole windows of w x w, which may reach beyond the map."""
    bands, windows = (H + w - 1) // w, (W + w - 1) // w
    t = torch.arange(bands * windows * w * w, device=device)
    window, t = t // (w * w), t % (w * w)
    return window // windows * w + t // w, window % windows * w + t % w


def _by_diagonals(H: int, W: int, device: torch.device, mirror: bool, zigzag: bool) -> Tensor:
    """Return the positions sorted by anti-diagonal i + j, by diagonal if mirrored, and by row on each of them."""
    t = torch.arange(H * W, device=device)
    i, j = t // W, t % W
    line = i + (W - 1 - j if mirror else j)
    along = torch.where(line % 2 == 0, H - 1 - i, i) if zigzag else i
    return (line * H + along).argsort()


def _curve(start: Cell, along: Cell, across: Cell) -> Iterator[Cell]:
    """Walk all cells of a rectangle, each to a neighbour, from one corner to the other end of the side ``along``.

    A long rectangle is walked half by half. Any other is cut as Hilbert's square is: along the near half of the side
    ``across``, then the far half all the way along, and back down the near half of what is left.

    Args:
        start: Row and column of the first cell.
        along: The side at whose other end the walk ends, as rows and columns, one of them 0.
        across: The other side.

    Yields:
        Rows and columns.
    """
    (length, unit), (width, other) = _side(along), _side(across)
    if width == 1 or length == 1:
        step = unit if width == 1 else other
        for n in range(max(length, width)):
            yield start[0] + n * step[0], start[1] + n * step[1]
        return
    near, low = length // 2, width // 2
    if 2 * length > 3 * width:
        near += near % 2 and length > 2  # an even half: only then does its walk end where the next one begins
        yield from _curve(start, _times(unit, near), across)
        yield from _curve(_plus(start, _times(unit, near)), _times(unit, length - near), across)
        return
    low += low % 2 and width > 2
    yield from _curve(start, _times(other, low), _times(unit, near))
    yield from _curve(_plus(start, _times(other, low)), along, _times(other, width - low))
    last = _plus(start, _plus(_times(unit, length - 1), _times(other, low - 1)))
    yield from _curve(last, _times(other, -low), _times(unit, near - length))


def _side(side: Cell) -> tuple[int, Cell]:
    length = abs(side[0] + side[1])
    return length, (side[0] // length, side[1] // length)


def _plus(a: Cell, b: Cell) -> Cell:
    return a[0] + b[0], a[1] + b[1]


def _times(a: Cell, n: int) -> Cell:
    return a[0] * n, a[1] * n


PUBLISHED = tuple(_ORDERS.values())  # right by construction: what they return needs no check
