"""Every scan order as an index map over the raster positions of an (H, W) map, computed once per size and device.

A scan order is not a copy of the tokens: it is a stride sign, or an index map that the scan reads its inputs through
and writes its outputs back through. Position ``(i, j)`` of the map has raster index ``i * W + j``; a path visits raster
position ``order[t]`` at step ``t``.

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

Sources: VMamba, https://arxiv.org/abs/2401.10166, Fig. 3; PlainMamba, https://arxiv.org/abs/2403.17695, Fig. 3;
LocalMamba, https://arxiv.org/abs/2403.09338, Fig. 3.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ['ScanPath', 'available_scan_paths', 'cross_scan', 'scan_paths', 'zigzag_scan']

_MAX_CACHED = 64
_cache: OrderedDict[tuple, Tensor] = OrderedDict()
_cache_lock = threading.Lock()
_WINDOW = re.compile(r'window([1-9][0-9]*)(_col)?')


@dataclass(frozen=True, eq=False)
class ScanPath:
    """One scan order over ``length`` tokens.

    Args:
        length: Number of tokens, L.
        index: Raster position of each step, int64 (L,), or None for the raster order itself, which then costs neither
            an index tensor nor a gather. Defaults to None.
        reverse: Walk the map from its last step to its first: a stride sign, no second map. Defaults to False.
        name: For messages. Defaults to 'custom'.

    Paths made here are permutations by construction; make one of your own map with :meth:`from_index`, which checks it.
    """

    length: int
    index: Tensor | None = None
    reverse: bool = False
    name: str = 'custom'

    @classmethod
    def forward(cls, length: int) -> ScanPath:
        """Raster order over `length` tokens."""
        return cls(length, None, False, 'forward')

    @classmethod
    def backward(cls, length: int) -> ScanPath:
        """Raster order from the last of `length` tokens to the first."""
        return cls(length, None, True, 'reverse')

    @classmethod
    def from_index(cls, index: Tensor, reverse: bool = False, name: str = 'custom') -> ScanPath:
        """A path along a map of one's own, int64 (L,).

        Raises:
            TypeError: If `index` is no int64 tensor.
            ValueError: If it is not a permutation of 0..L-1.
        """
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            found = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f'index of a scan path must be an int64 tensor, got {found}; convert it with .long()')
        if index.dim() != 1:
            raise ValueError(f'index of a scan path must have shape (L,), got {tuple(index.shape)}')
        length = index.numel()
        if not torch.equal(index.sort().values, torch.arange(length, device=index.device)):
            raise ValueError(f'index of a scan path must hold each of 0..{length - 1} exactly once')
        return cls(length, index, bool(reverse), name)

    def reversed(self) -> ScanPath:
        """The same order backwards, sharing the index map."""
        stem = self.name.removesuffix('_reverse')
        return ScanPath(self.length, self.index, not self.reverse, stem if self.reverse else f'{stem}_reverse')

    def order(self, device: torch.device | str | None = None) -> Tensor:
        """Raster position visited at each step, int64 (L,), on the map's device unless `device` is given."""
        index = torch.arange(self.length, device=device) if self.index is None else self.index
        if device is not None:
            index = index.to(device)
        return index.flip(0) if self.reverse else index

    def inverse(self, device: torch.device | str | None = None) -> Tensor:
        """Step at which each raster position is visited, int64 (L,)."""
        order = self.order(device)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(self.length, device=order.device)
        return inverse


def scan_paths(names: Sequence[str] | str, H: int, W: int, device: torch.device | str = 'cpu') -> tuple[ScanPath, ...]:
    """Paths over an (H, W) map by name, see the table above.

    The index maps are kept (the 64 last used), so that calling this in every forward costs a look-up.

    Args:
        names: A name or several.
        H: Rows of the map.
        W: Columns of the map.
        device: Where the index maps shall live; that of the scan's tensors. Defaults to 'cpu'.

    Returns:
        One path a name; a path and its reverse share their map.

    Raises:
        ValueError: If a name is unknown or H or W is not positive.
    """
    if H < 1 or W < 1:
        raise ValueError(f'a scan path needs a map of at least 1 x 1, got H={H}, W={W}')
    names = (names,) if isinstance(names, str) else tuple(names)
    paths = []
    for name in names:
        stem = name.removesuffix('_reverse')
        paths.append(ScanPath(H * W, _index_map(stem, H, W, torch.device(device)), stem != name, name))
    return tuple(paths)


def cross_scan(H: int, W: int, device: torch.device | str = 'cpu') -> tuple[ScanPath, ...]:
    """VMamba's four paths in the order of its stacked parameters: row, col, row_reverse, col_reverse."""
    return scan_paths(('row', 'col', 'row_reverse', 'col_reverse'), H, W, device)


def zigzag_scan(H: int, W: int, device: torch.device | str = 'cpu') -> tuple[ScanPath, ...]:
    """PlainMamba's four continuous paths, o1 to o4."""
    return scan_paths(('zigzag_row', 'zigzag_row_reverse', 'zigzag_col', 'zigzag_col_reverse'), H, W, device)


def available_scan_paths() -> tuple[str, ...]:
    """Names that :func:`scan_paths` knows, with 'window<w>' standing for every window size."""
    stems = ('row', 'col', 'zigzag_row', 'zigzag_col', 'window<w>', 'window<w>_col')
    return tuple(name + suffix for name in stems for suffix in ('', '_reverse'))


def _index_map(stem: str, H: int, W: int, device: torch.device) -> Tensor | None:
    """The map of a name without '_reverse', from the cache if it is there; None for the raster order."""
    window = _WINDOW.fullmatch(stem)
    if window is None and stem not in ('row', 'col', 'zigzag_row', 'zigzag_col'):
        raise ValueError(f'unknown scan path {stem!r}; available: {", ".join(available_scan_paths())}')
    if stem == 'row' or (stem == 'col' and 1 in (H, W)):
        return None
    if torch.compiler.is_compiling():
        return _build(stem, window, H, W).to(device)  # a traced tensor must not stay behind in the cache
    key = (stem, H, W, device)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    # A map made under inference_mode could not be saved for a later backward.
    with torch.inference_mode(False), torch.no_grad():
        index = _build(stem, window, H, W).to(device)
    if type(index) is Tensor:  # neither a fake tensor nor another subclass that a mode may have produced
        with _cache_lock:
            _cache[key] = index
            while len(_cache) > _MAX_CACHED:
                _cache.popitem(last=False)
    return index


def _build(stem: str, window: re.Match | None, H: int, W: int) -> Tensor:
    raster = torch.arange(H * W, device='cpu').view(H, W)
    if stem == 'col':
        return raster.t().reshape(-1)
    if stem == 'zigzag_row':
        return _zigzag(raster)
    if stem == 'zigzag_col':
        return _zigzag(raster.t())
    size, by_column = int(window[1]), window[2] is not None
    grid = raster.t() if by_column else raster
    return torch.cat([cell.reshape(-1) for band in grid.split(size, dim=0) for cell in band.split(size, dim=1)])


def _zigzag(grid: Tensor) -> Tensor:
    """Rows of `grid` from the top, every second one backwards, so that each step goes to a neighbour."""
    grid = grid.clone()
    grid[1::2] = grid[1::2].flip(1)
    return grid.reshape(-1)
