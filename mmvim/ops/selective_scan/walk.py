"""Bring the paths of a call into the form that every backend takes: distinct index maps, and who walks which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvim.ops.scan_paths import ScanPath, plain_size


class Walk(NamedTuple):
    """K paths of T steps over L positions; fields of :class:`mmvim.ops.selective_scan.arguments.ScanArguments`.

    Attributes:
        maps: The distinct index maps, int64 (M, T), or None if all paths are the raster order.
        map_ids: Each path's row of them, -1 for the raster order.
        reverse: Whether it is walked backwards.
        length: L.
        steps: T.
        partial: Whether maps leave positions out or have padding steps.
    """

    maps: Tensor | None
    map_ids: tuple[int, ...]
    reverse: tuple[bool, ...]
    length: int
    steps: int
    partial: bool


def resolve_paths(paths: Sequence[ScanPath | Tensor | str], length: int, device: torch.device) -> Walk:
    """Return what the paths of a call amount to.

    Args:
        paths: As a user gives them.
        length: Columns of u: the positions, unless the paths are partial and say otherwise.
        device: That of u.

    Raises:
        TypeError: If something is not a path.
        ValueError: If a path has another length or device than u, or a name is unknown.
    """
    partial = any(isinstance(path, ScanPath) and path.partial for path in paths)
    if partial:
        length = next(path.length for path in paths if isinstance(path, ScanPath) and path.partial)
    found = [_as_path(path, k, length, device, partial) for k, path in enumerate(paths)]
    maps: list[Tensor] = []
    owners: list[ScanPath] = []  # the path that each map came with
    map_ids = []
    for path in found:
        if path.index is None:
            map_ids.append(-1)
            continue
        # A trace builds a new tensor for each path, so identity alone would miss that two share a map.
        known = [
            i
            for i, other in enumerate(owners)
            if path.index is other.index or (path.key is not None and path.key == other.key)
        ]
        if not known:
            known = [len(maps)]
            maps.append(path.index)
            owners.append(path)
        map_ids.append(known[0])
    steps = length
    if partial and len(maps) == len(set(map_ids)):  # none is the raster order
        steps = plain_size(maps[0].shape[0])
    if partial and (len(maps) > 1 or -1 in map_ids):
        if -1 in map_ids:
            map_ids = [len(maps) if m < 0 else m for m in map_ids]
            maps.append(torch.arange(length, device=device))
        steps = _longest([plain_size(index.shape[0]) for index in maps])
        maps = [F.pad(index, (0, steps - plain_size(index.shape[0])), value=-1) for index in maps]
    reverse = tuple(path.reverse for path in found)
    if not maps:
        return Walk(None, tuple(map_ids), reverse, length, steps, partial)
    # The kernels read maps row by row: one of a user's own may have other strides.
    stacked = maps[0][None].contiguous() if len(maps) == 1 else torch.stack(maps)  # (M, T)
    return Walk(stacked, tuple(map_ids), reverse, length, steps, partial)


def _as_path(path: ScanPath | Tensor | str, k: int, length: int, device: torch.device, partial: bool) -> ScanPath:
    """Return entry k of the paths as a path, checked."""
    if isinstance(path, Tensor):
        path = ScanPath.from_index(path)
    elif isinstance(path, str):
        if path not in ('forward', 'reverse'):
            raise ValueError(
                f"paths[{k}] must be 'forward', 'reverse', a ScanPath or an index tensor, got {path!r}; "
                'orders over a map come from mmvim.ops.scan_paths(names, H, W, device)'
            )
        path = ScanPath.forward(length) if path == 'forward' else ScanPath.backward(length)
    elif not isinstance(path, ScanPath):
        raise TypeError(f'paths[{k}] must be a ScanPath, an index tensor or a string, got {type(path).__name__}')
    if path.length != length:
        others = 'another path' if partial else 'u'
        raise ValueError(f'paths[{k}] ({path.name}) is over {path.length} positions, but {others} has L={length}')
    if path.index is not None and path.index.device != device:
        raise ValueError(
            f'paths[{k}] ({path.name}) has its index map on {path.index.device}, u is on {device}; '
            'make the path with device=u.device'
        )
    return path


def _longest(steps: list[int]) -> int:
    """Return the largest number; symbolic ones give a symbolic one, without a guard."""
    longest = steps[0]
    for other in steps[1:]:
        longest = torch.sym_max(longest, other)
    return longest
