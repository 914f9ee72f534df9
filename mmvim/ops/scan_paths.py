"""Scan paths: every order over an (H, W) map as an index map, computed once per size and device.

A scan order is not a copy of the tokens. It is a stride sign, or an index map that the scan reads its inputs through
and writes its outputs back through. The names of the orders, and what each visits, are in
:mod:`mmvim.ops.scan_orders`.

Most orders visit every position once. A *partial* one may leave positions out, and may have padding steps, -1 in its
map: there the scan reads zeros, its state decays, and nothing is written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvim.ops.scan_orders import PUBLISHED, available_scan_paths, find_order, scan_order

__all__ = ['ScanPath', 'available_scan_paths', 'cross_scan', 'scan_order', 'scan_paths', 'zigzag_scan']

_MAX_CACHED = 64
_cache: OrderedDict[tuple, tuple[Tensor, bool]] = OrderedDict()  # map, and whether it is partial
_cache_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class ScanPath:
    """One scan order over ``length`` tokens.

    Paths from :func:`scan_paths`, :meth:`forward` and :meth:`backward` are right by construction. Make a path of your
    own map with :meth:`from_index`, which checks it.

    Args:
        length: Number of positions, L.
        index: Raster position of each step, int64 (T,), or None for the raster order itself, which then costs neither
            an index tensor nor a gather. A permutation, so that T is L, unless the path is partial. Defaults to None.
        reverse: Walk the map from its last step to its first: a stride sign, not a second map. Defaults to False.
        name: For messages. Defaults to 'custom'.
        key: What identifies the map: paths of equal keys share one, even where a trace has built it twice.
            :func:`scan_paths` sets ``(name, H, W)``, the name without ``_reverse``. Defaults to None, a map that only
            its tensor identifies.
        partial: The map may leave positions out and have padding steps, -1. Defaults to False.

    Examples:
        >>> from mmvim.ops import ScanPath
        >>> ScanPath(3, reverse=True).order().tolist()
        [2, 1, 0]
    """

    length: int
    index: Tensor | None = None
    reverse: bool = False
    name: str = 'custom'
    key: tuple[str, int, int] | None = None
    partial: bool = False

    @property
    def steps(self) -> int:
        """Number of steps, T.

        Examples:
            >>> from mmvim.ops import scan_paths
            >>> scan_paths('window2_padded', 3, 3)[0].steps
            16
        """
        return self.length if self.index is None else self.index.shape[0]

    @classmethod
    def forward(cls, length: int) -> ScanPath:
        """Return the raster order over ``length`` tokens.

        Args:
            length: Number of tokens, L.

        Returns:
            A path without an index map.

        Examples:
            >>> from mmvim.ops import ScanPath
            >>> ScanPath.forward(3).order().tolist()
            [0, 1, 2]
        """
        return cls(length, None, False, 'forward')

    @classmethod
    def backward(cls, length: int) -> ScanPath:
        """Return the raster order from the last of ``length`` tokens to the first.

        Args:
            length: Number of tokens, L.

        Returns:
            A path without an index map.

        Examples:
            >>> from mmvim.ops import ScanPath
            >>> ScanPath.backward(3).order().tolist()
            [2, 1, 0]
        """
        return cls(length, None, True, 'reverse')

    @classmethod
    def from_index(
        cls, index: Tensor, reverse: bool = False, name: str = 'custom', length: int | None = None
    ) -> ScanPath:
        """Return the path along an index map of your own.

        Args:
            index: Raster position of each step, int64 (T,).
            reverse: Walk the map from its last step to its first. Defaults to False.
            name: For messages. Defaults to 'custom'.
            length: Number of positions, L, of a partial map: one that leaves positions out or has padding steps, -1.
                Defaults to None: the map is a permutation, and L is T.

        Returns:
            The path. It shares its map with another path if both hold the same tensor.

        Raises:
            TypeError: If ``index`` is not an int64 tensor.
            ValueError: If it is not a permutation of 0..L-1; with ``length``, if it holds a position twice or anything
                outside of -1..L-1.

        Examples:
            >>> import torch
            >>> from mmvim.ops import ScanPath
            >>> path = ScanPath.from_index(torch.tensor([2, 0, 1]))
            >>> path.order().tolist(), path.inverse().tolist()
            ([2, 0, 1], [1, 2, 0])
            >>> path = ScanPath.from_index(torch.tensor([2, -1, 0]), length=4)
            >>> path.steps, path.partial, path.inverse().tolist()
            (3, True, [2, -1, 0, -1])
        """
        what = 'index of a scan path'
        if length is None:
            _check_map(index, what)
            return cls(index.numel(), index, bool(reverse), name)
        _check_map(index, what, length, partial=True)
        return cls(length, index, bool(reverse), name, None, _is_partial(index, length))

    def reversed(self) -> ScanPath:
        """Return the same order backwards, which shares the index map.

        Returns:
            The path, with ``_reverse`` added to the name or taken from it.

        Examples:
            >>> from mmvim.ops import scan_paths
            >>> (path,) = scan_paths('col', 2, 3)
            >>> path.reversed().name, path.reversed().order().tolist()
            ('col_reverse', [5, 2, 4, 1, 3, 0])
        """
        stem = self.name.removesuffix('_reverse')
        name = stem if self.reverse else f'{stem}_reverse'
        return ScanPath(self.length, self.index, not self.reverse, name, self.key, self.partial)

    def order(self, device: torch.device | str | None = None) -> Tensor:
        """Return the raster position visited at each step.

        Args:
            device: Where the result shall live. Defaults to None, the map's device (CPU if there is no map).

        Returns:
            int64 (T,); -1 at padding steps.

        Examples:
            >>> from mmvim.ops import scan_paths
            >>> scan_paths('col', 2, 3)[0].order().tolist()
            [0, 3, 1, 4, 2, 5]
        """
        index = torch.arange(self.length, device=device) if self.index is None else self.index
        if device is not None:
            index = index.to(device)
        return index.flip(0) if self.reverse else index

    def inverse(self, device: torch.device | str | None = None) -> Tensor:
        """Return the step at which each raster position is visited.

        Args:
            device: Where the result shall live. Defaults to None, the map's device (CPU if there is no map).

        Returns:
            int64 (L,); -1 for positions that no step visits.

        Examples:
            >>> from mmvim.ops import scan_paths
            >>> scan_paths('col', 2, 3)[0].inverse().tolist()
            [0, 2, 4, 1, 3, 5]
        """
        order = self.order(device)
        inverse = order.new_full((self.length + 1,), -1)  # padding steps write to the last entry
        inverse[order % (self.length + 1)] = torch.arange(self.steps, device=order.device)
        return inverse[:-1]

    def read(self, x: Tensor, filler: float = 0.0) -> Tensor:
        """Bring a tensor into the order of the steps: a copy, for what must be in that order, such as a convolution.

        Args:
            x: (..., L), on the device of the map.
            filler: What padding steps read. Defaults to 0.0.

        Returns:
            (..., T).

        Examples:
            >>> import torch
            >>> from mmvim.ops import scan_paths
            >>> (path,) = scan_paths('window2_padded', 1, 3)
            >>> path.read(torch.tensor([1.0, 2.0, 3.0])).tolist()
            [1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]
        """
        order = self.order(x.device)
        if not self.partial:
            return x.index_select(-1, order)
        return torch.where(order < 0, filler, x.index_select(-1, order.clamp(min=0)))


def scan_paths(names: Sequence[str] | str, H: int, W: int, device: torch.device | str = 'cpu') -> tuple[ScanPath, ...]:
    """Return paths over an (H, W) map by name: the table's in :mod:`mmvim.ops.scan_orders` and your own.

    The index maps are kept (the 64 last used), so that calling this in every forward pass costs a look-up.

    Args:
        names: A name or several.
        H: Rows of the map.
        W: Columns of the map.
        device: Where the index maps shall live: the device of the scan's tensors. Defaults to 'cpu'.

    Returns:
        One path a name; a path and its reverse share their map.

    Raises:
        ValueError: If a name is unknown, if H or W is not positive, or if H or W is symbolic and an order exports at
            fixed sizes only (see :func:`scan_order`).

    Examples:
        >>> from mmvim.ops import scan_paths
        >>> for path in scan_paths(('col', 'zigzag_row_reverse', 'window2'), 2, 3):
        ...     print(path.name, path.order().tolist())
        col [0, 3, 1, 4, 2, 5]
        zigzag_row_reverse [3, 4, 5, 2, 1, 0]
        window2 [0, 1, 3, 4, 2, 5]
    """
    H, W = plain_size(H), plain_size(W)
    if H < 1 or W < 1:
        raise ValueError(f'a scan path needs a map of at least 1 x 1, got H={H}, W={W}')
    names = (names,) if isinstance(names, str) else tuple(names)
    paths = []
    for name in names:
        stem = name.removesuffix('_reverse')
        index, partial = _index_map(stem, H, W, torch.device(device))
        paths.append(ScanPath(H * W, index, stem != name, name, (stem, H, W), partial))
    return tuple(paths)


def plain_size(side: int | Tensor) -> int:
    """Return a size as a number; in ``torch.jit.trace`` it is a tensor, which must not become a key of the cache."""
    return int(side) if isinstance(side, Tensor) else side


def cross_scan(H: int, W: int, device: torch.device | str = 'cpu') -> tuple[ScanPath, ...]:
    """Return VMamba's four paths in the order of its stacked parameters: row, col, row_reverse, col_reverse.

    Args:
        H: Rows of the map.
        W: Columns of the map.
        device: Where the index maps shall live. Defaults to 'cpu'.

    Returns:
        Four paths.

    Examples:
        >>> from mmvim.ops import cross_scan
        >>> [path.order().tolist() for path in cross_scan(2, 2)]
        [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]
    """
    return scan_paths(('row', 'col', 'row_reverse', 'col_reverse'), H, W, device)


def zigzag_scan(H: int, W: int, device: torch.device | str = 'cpu') -> tuple[ScanPath, ...]:
    """Return PlainMamba's four continuous paths, o1 to o4.

    Args:
        H: Rows of the map.
        W: Columns of the map.
        device: Where the index maps shall live. Defaults to 'cpu'.

    Returns:
        Four paths.

    Examples:
        >>> from mmvim.ops import zigzag_scan
        >>> [path.order().tolist() for path in zigzag_scan(2, 2)]
        [[0, 1, 3, 2], [2, 3, 1, 0], [0, 2, 3, 1], [1, 3, 2, 0]]
    """
    return scan_paths(('zigzag_row', 'zigzag_row_reverse', 'zigzag_col', 'zigzag_col_reverse'), H, W, device)


def _index_map(stem: str, H: int, W: int, device: torch.device) -> tuple[Tensor | None, bool]:
    """Return the map of a name without '_reverse', None for the raster order, and whether it may be partial."""
    if stem == 'row':
        return None, False
    symbolic = isinstance(H, torch.SymInt) or isinstance(W, torch.SymInt)
    if not symbolic and not torch.compiler.is_compiling():
        return _kept_map(stem, H, W, device)
    order, parameters = find_order(stem)
    if order.traceable:
        return order.function(H, W, device, **parameters), order.partial  # must not stay behind in the cache
    if symbolic:
        raise ValueError(
            f'scan order {stem!r} is built in Python (traceable=False) and exports at fixed sizes only, but H={H}, '
            f'W={W} are symbolic; export with fixed sizes, or write it as tensor arithmetic (see mmvim.ops.scan_order)'
        )
    # TorchDynamo hides that a size is symbolic. A range makes a number of it, and the graph serves that size only.
    index = _constant_map(stem, len(range(H)), len(range(W)), device)
    return index.clone(), order.partial  # a constant itself cannot leave the graph


def _kept_map(stem: str, H: int, W: int, device: torch.device) -> tuple[Tensor, bool]:
    """Return the map from the cache, or make and check it; and whether it is partial."""

    def make() -> tuple[Tensor, bool]:
        order, parameters = find_order(stem)
        index = order.function(H, W, device, **parameters)
        if order not in PUBLISHED:  # the check waits for the device
            what = f'what scan order {stem!r} returns at H={H}, W={W}'
            _check_map(index, what, H * W, device, order.partial)
        return index, order.partial and _is_partial(index, H * W)

    return keep((stem, H, W, device), make)


def keep(key: tuple, make: Callable[[], tuple[Tensor, bool]]) -> tuple[Tensor, bool]:
    """Return what is in the cache under a key, or make it: a map, or what is computed from maps, with a flag."""
    faking = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None  # it takes no real tensor
    with _cache_lock:
        if key in _cache and not faking:
            _cache.move_to_end(key)
            return _cache[key]
    # A map made under inference_mode could not be saved for a later backward.
    with torch.inference_mode(False), torch.no_grad():
        made = make()
    if type(made[0]) is Tensor:  # neither a fake tensor nor another subclass that a mode may have produced
        with _cache_lock:
            _cache[key] = made
            while len(_cache) > _MAX_CACHED:
                _cache.popitem(last=False)
    return made


@torch.compiler.assume_constant_result
def _constant_map(stem: str, H: int, W: int, device: torch.device) -> Tensor:
    return _kept_map(stem, H, W, device)[0]


def _without_values(index: Tensor) -> bool:
    return type(index) is not Tensor or index.is_meta  # under a FakeTensorMode, or on the meta device


def _is_partial(index: Tensor, length: int) -> bool:
    """Return whether a map leaves positions out or has padding steps; True if its values cannot be read."""
    return index.numel() != length or _without_values(index) or bool((index < 0).any())


def _check_map(
    index: object,
    what: str,
    length: int | None = None,
    device: torch.device | None = None,
    partial: bool = False,
) -> None:
    """Raise unless ``index`` is a permutation of 0..L-1 or, partial, holds each of them once at most, and else -1."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        found = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f'{what} must be an int64 tensor, got {found}; convert it with .long()')
    if index.dim() != 1 or (not partial and length not in (None, index.numel())):
        expected = 'T' if partial else length or 'L'
        raise ValueError(f'{what} must have shape ({expected},), a position for each step, got {tuple(index.shape)}')
    if device is not None and (index.device.type != device.type or device.index not in (None, index.device.index)):
        raise ValueError(f'{what} must be on {device}, got {index.device}; make it with device=device')
    if device is not None and _without_values(index):
        return
    count = index.numel() if length is None else length
    if not partial and not torch.equal(index.sort().values, torch.arange(count, device=index.device)):
        raise ValueError(f'{what} must hold each of 0..{count - 1} exactly once')
    if partial:
        visited = index[index != -1]
        wrong = len(visited) and (visited.min() < 0 or visited.max() >= count or len(visited.unique()) < len(visited))
        if wrong or index.numel() == 0:
            raise ValueError(f'{what} must hold each of 0..{count - 1} at most once, and -1 at padding steps')
