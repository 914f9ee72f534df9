"""Check the arguments of the public functions and bring them into the one form that every backend takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmvim.ops.scan_paths import ScanPath
from mmvim.ops.selective_scan.walk import resolve_paths

# The tensors among the fields of ScanArguments, in the order in which every operator takes them.
TENSORS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state', 'maps')
FOLLOWERS = ('u', 'delta', 'B', 'C')
COMBINE = ('sum', 'stack')


class ScanArguments(NamedTuple):
    """K scans over L tokens of a batch (b), in the shapes that the backends take; the operators' arguments, in order.

    An axis "1|K" has size K, or 1 where all paths share the tensor. Gradients of shared tensors are sums over paths.
    Each path takes T steps. T is L unless the paths are partial; u, delta, B and C then have L columns if they are read
    through the path, T if not.

    Attributes:
        u, delta: (b, 1|K, D, L), any floating dtype.
        A: (1|K, D, N), state dtype.
        B, C: (b, 1|K, G, N, L), any floating dtype, one G for both; channel d belongs to group d * G // D. Or, constant
            in time, (1, D, N), state dtype.
        D, delta_bias: (1|K, D) or None, state dtype.
        z: (b, D, L) or None.
        initial_state: (b, K, D, N) or None, state dtype.
        maps: Index maps, int64 (M, T), or None; partial paths have -1 at padding steps, where zeros are read and
            nothing is written.
        map_ids: Row of ``maps`` that each path walks, -1 for the raster order; K numbers.
        reverse: Whether each path walks its map backwards; K flags.
        follow: Whether u, delta, B, C are read through the path (else at the step's own number); 4 flags.
        length: Number of positions, L.
        partial: Whether paths may leave positions out (their outputs are 0) and have padding steps.
        delta_softplus: Apply softplus to delta + delta_bias.
        stack: Return each path's output rather than their sum.
        out_dtype: dtype of the output.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None
    maps: Tensor | None
    map_ids: Sequence[int]
    reverse: Sequence[bool]
    follow: Sequence[bool]
    length: int
    partial: bool
    delta_softplus: bool
    stack: bool
    out_dtype: torch.dtype

    @property
    def num_paths(self) -> int:
        """Number of paths, K."""
        return len(self.map_ids)

    @property
    def steps(self) -> int:
        """Number of steps of each path, T."""
        return self.length if self.maps is None else self.maps.shape[1]

    @property
    def groups(self) -> int:
        """Number of groups of B and C, G."""
        return max([x.shape[2] for x in (self.B, self.C) if x.dim() == 5], default=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        return {name: x for name, x in zip(TENSORS, self, strict=False) if x is not None}


def empty_rows(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty tensor laid out as all results of all backends are.

    The last axis but one (channels, or the states of B and C) is contiguous, the last one (tokens, or the states of A)
    is slower; a vector a path, (K, D), is contiguous as usual.

    Args:
        like: Where the dtype and the device come from.
        shape: (..., D, L), (..., N, L), (..., D, N), or (K, D).
        dtype: Defaults to None, that of ``like``.
    """
    if len(shape) < 3:
        return like.new_empty(shape, dtype=dtype)
    return like.new_empty((*shape[:-2], shape[-1], shape[-2]), dtype=dtype).transpose(-1, -2)


def single_path(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    out_dtype: torch.dtype | None,
) -> ScanArguments:
    """Check the arguments of :func:`mmvim.ops.selective_scan`; return them in the common form."""
    if _is_usual(u, delta, A, B, C, D, z, delta_bias, initial_state) and out_dtype in (None, torch.float32):
        return ScanArguments(
            u.unsqueeze(1),
            delta.unsqueeze(1),
            A.unsqueeze(0),
            B.unsqueeze(1).unsqueeze(1),
            C.unsqueeze(1).unsqueeze(1),
            None if D is None else D.unsqueeze(0),
            z,
            None if delta_bias is None else delta_bias.unsqueeze(0),
            None if initial_state is None else initial_state.unsqueeze(1),
            None,
            (-1,),
            (bool(reverse),),
            (True,) * 4,
            u.shape[2],
            False,
            bool(delta_softplus),
            False,
            torch.float32,
        )
    _check_tensors(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    _check_dim('u', u, (3,), '(B, D, L)')
    batch, dim, length = u.shape
    _check_shape('delta', delta, (batch, dim, length), '(B, D, L), that of u')
    _check_dim('A', A, (2,), '(D, N)')
    d_state = A.shape[1]
    _check_shape('A', A, (dim, d_state), '(D, N)')
    B, C = (_single_path_projection(name, x, batch, dim, d_state, length) for name, x in (('B', B), ('C', C)))
    _check_optional('D', D, (dim,), '(D,)')
    _check_optional('delta_bias', delta_bias, (dim,), '(D,)')
    _check_optional('z', z, (batch, dim, length), '(B, D, L), that of u')
    _check_optional('initial_state', initial_state, (batch, dim, d_state), '(B, D, N)')
    state = _state_dtype(u, delta, A, B, C)
    B, C = _one_grouping(B, C, state)
    return ScanArguments(
        u[:, None],
        delta[:, None],
        A[None].to(state),
        B,
        C,
        None if D is None else D[None].to(state),
        z,
        None if delta_bias is None else delta_bias[None].to(state),
        None if initial_state is None else initial_state[:, None].to(state),
        None,
        (-1,),
        (bool(reverse),),
        (True,) * 4,
        length,
        False,
        bool(delta_softplus),
        False,
        _out_dtype(u, out_dtype),
    )


def _is_usual(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> bool:
    """Return whether all is float32, on CPUs, without groups and of fitting shapes.

    A short way through the checks for scans of few tokens, which take no longer than the checks themselves. Whatever
    else there is, wrong arguments included, is looked at one by one.
    """
    for x in (u, delta, A, B, C, D, z, delta_bias, initial_state):
        if x is not None and not (isinstance(x, Tensor) and x.dtype is torch.float32 and x.is_cpu):
            return False
    if u.dim() != 3 or A.dim() != 2:
        return False
    (batch, dim, length), states = u.shape, A.shape[1]
    return (
        delta.shape == u.shape
        and A.shape[0] == dim
        and B.shape == C.shape == (batch, states, length)
        and (D is None or D.shape == (dim,))
        and (z is None or z.shape == u.shape)
        and (delta_bias is None or delta_bias.shape == (dim,))
        and (initial_state is None or initial_state.shape == (batch, dim, states))
    )


def several_paths(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    paths: Sequence[ScanPath | Tensor | str],
    follow: Sequence[str],
    combine: str,
    out_dtype: torch.dtype | None,
) -> ScanArguments:
    """Check the arguments of :func:`mmvim.ops.selective_scan_paths`; return them in the common form."""
    _check_tensors(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    if isinstance(paths, (str, ScanPath, Tensor)) or len(paths) == 0:
        raise ValueError(f'paths must be a sequence of at least one scan path, got {paths!r}')
    num = len(paths)
    if combine not in COMBINE:
        raise ValueError(f'combine must be one of {COMBINE}, got {combine!r}')
    unknown = sorted(set(follow) - set(FOLLOWERS)) if not isinstance(follow, str) else [follow]
    if unknown:
        raise ValueError(f'follow must be a sequence out of {FOLLOWERS}, got {follow!r}')
    _check_dim('u', u, (3, 4), '(B, D, L) or (B, K, D, L)')
    batch, dim = u.shape[0], u.shape[-2]
    walk = resolve_paths(paths, u.shape[-1], u.device)
    if walk.partial and follow and 'u' not in follow:
        raise ValueError(f"follow={tuple(follow)!r} must have 'u' or be empty where paths have padding steps")
    unequal = walk.partial and num > 1 and len(set(follow)) < len(FOLLOWERS)
    if unequal and any(isinstance(path, ScanPath) and path.steps != walk.steps for path in paths):
        raise ValueError(f'follow must be all of {FOLLOWERS} where paths differ in their number of steps')
    columns = {name: walk.length if name in follow else walk.steps for name in FOLLOWERS}
    u, delta = (
        _per_path(name, x, num, (batch,), (dim, columns[name]), '(B, D, L) or (B, K, D, L)')
        for name, x in (('u', u), ('delta', delta))
    )
    _check_dim('A', A, (2, 3), '(D, N) or (K, D, N)')
    d_state = A.shape[-1]
    A = _per_path('A', A, num, (), (dim, d_state), '(D, N) or (K, D, N)')
    B, C = (_paths_projection(name, x, num, batch, dim, d_state, columns[name]) for name, x in (('B', B), ('C', C)))
    if D is not None:
        D = _per_path('D', D, num, (), (dim,), '(D,) or (K, D)')
    if delta_bias is not None:
        delta_bias = _per_path('delta_bias', delta_bias, num, (), (dim,), '(D,) or (K, D)')
    _check_optional('z', z, (batch, dim, walk.length), '(B, D, L)')
    state = _state_dtype(u, delta, A, B, C)
    B, C = _one_grouping(B, C, state)
    return ScanArguments(
        u,
        delta,
        A.to(state),
        B,
        C,
        None if D is None else D.to(state),
        z,
        None if delta_bias is None else delta_bias.to(state),
        None,
        walk.maps,
        walk.map_ids,
        walk.reverse,
        tuple(name in follow for name in FOLLOWERS),
        walk.length,
        walk.partial,
        bool(delta_softplus),
        combine == 'stack',
        _out_dtype(u, out_dtype),
    )


def path_of(args: ScanArguments, k: int) -> ScanArguments:
    """Return the arguments of path k alone, stacked: views."""
    tensors = args.tensors()
    own: dict[str, Any] = {}
    for name, axis in {'u': 1, 'delta': 1, 'A': 0, 'B': 1, 'C': 1, 'D': 0, 'delta_bias': 0}.items():
        if name in tensors and tensors[name].shape[axis] > 1:
            own[name] = tensors[name].narrow(axis, k, 1)
    return args._replace(**own, map_ids=args.map_ids[k : k + 1], reverse=args.reverse[k : k + 1], stack=True)


def check_chain(args: ScanArguments, paths: Sequence[ScanPath | Tensor | str]) -> None:
    """Raise unless the paths can be walked one after the other as one sequence."""
    if not args.stack:
        raise ValueError("chain=True needs combine='stack': the paths are thirds, halves, .. of one sequence")
    if args.partial and any(isinstance(path, ScanPath) and path.steps != args.steps for path in paths):
        raise ValueError(f'chain=True needs as many steps of all paths, got {[getattr(p, "steps", p) for p in paths]}')


def _single_path_projection(name: str, x: Tensor, batch: int, dim: int, d_state: int, length: int) -> Tensor:
    """(D, N) to (1, D, N); (b, N, L) or (b, G, N, L) to (b, 1, G, N, L)."""
    expected = '(D, N), (B, N, L) or (B, G, N, L)'
    _check_dim(name, x, (2, 3, 4), expected)
    if x.dim() == 2:
        _check_shape(name, x, (dim, d_state), expected)
        return x[None]
    if x.dim() == 3:
        _check_shape(name, x, (batch, d_state, length), expected)
        return x[:, None, None]
    _check_groups(name, x, x.shape[1], dim)
    _check_shape(name, x, (batch, x.shape[1], d_state, length), expected)
    return x[:, None]


def _paths_projection(name: str, x: Tensor, num: int, batch: int, dim: int, d_state: int, length: int) -> Tensor:
    """(b, N, L), (b, K, N, L) or (b, 1|K, G, N, L) to (b, 1|K, G, N, L)."""
    expected = '(B, N, L), (B, K, N, L) or (B, K, G, N, L)'
    _check_dim(name, x, (3, 4, 5), expected)
    if x.dim() == 3:
        x = x[:, None, None]
    elif x.dim() == 4:
        x = x[:, :, None]
    _check_groups(name, x, x.shape[2], dim)
    if x.shape[1] not in (1, num) or x.shape[0] != batch or x.shape[3] != d_state or x.shape[4] != length:
        raise ValueError(
            f'{name} must have shape {expected} with B={batch}, K={num}, N={d_state}, L={length}, '
            f'got {tuple(x.shape)} as (B, K, G, N, L)'
        )
    return x


def _one_grouping(B: Tensor, C: Tensor, state: torch.dtype) -> tuple[Tensor, Tensor]:
    """Give B and C one number of groups, and the state dtype where they are constant."""
    groups = math.lcm(*(x.shape[2] for x in (B, C) if x.dim() == 5))

    def regroup(x: Tensor) -> Tensor:
        if x.dim() == 3:
            return x.to(state)
        return x if x.shape[2] == groups else x.repeat_interleave(groups // x.shape[2], dim=2)  # (b, 1|K, G, N, L)

    return regroup(B), regroup(C)


def _per_path(name: str, x: Tensor, num: int, before: tuple[int, ...], after: tuple[int, ...], expected: str) -> Tensor:
    """Put the path axis into ``x`` where it is shared, and check the shape."""
    if x.dim() == len(before) + len(after):
        _check_shape(name, x, (*before, *after), expected)
        return x.unsqueeze(len(before))
    if x.dim() == len(before) + len(after) + 1 and x.shape[len(before)] == 1:
        _check_shape(name, x, (*before, 1, *after), expected)
        return x
    _check_shape(name, x, (*before, num, *after), f'{expected} with K={num} paths')
    return x


def _check_tensors(u: Tensor, **others: Tensor | None) -> None:
    for name, x in {'u': u, **others}.items():
        if x is None and name not in ('u', 'delta', 'A', 'B', 'C'):
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f'{name} must be a tensor, got {type(x).__name__}')
        if not x.is_floating_point():
            remedy = 'complex A is not supported: pass a real A' if x.is_complex() else 'convert it with .float()'
            raise TypeError(f'{name} must be a real floating-point tensor, got {x.dtype}; {remedy}')
        if x.device != u.device:
            raise ValueError(f'{name} is on {x.device}, but u is on {u.device}; move it with .to(u.device)')


def _check_dim(name: str, x: Tensor, dims: tuple[int, ...], expected: str) -> None:
    if x.dim() not in dims:
        raise ValueError(f'{name} must have shape {expected}, got {tuple(x.shape)}')


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...], expected: str) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f'{name} must have shape {expected}, here {shape}, got {tuple(x.shape)}')


def _check_optional(name: str, x: Tensor | None, shape: tuple[int, ...], expected: str) -> None:
    if x is not None:
        _check_shape(name, x, shape, expected)


def _check_groups(name: str, x: Tensor, groups: int, dim: int) -> None:
    if groups < 1 or dim % groups:
        raise ValueError(
            f'{name} has {groups} groups (shape {tuple(x.shape)}), which do not divide the {dim} channels of u'
        )


def _state_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def _out_dtype(u: Tensor, out_dtype: torch.dtype | None) -> torch.dtype:
    if out_dtype is None:
        return u.dtype
    if not isinstance(out_dtype, torch.dtype) or not out_dtype.is_floating_point:
        raise TypeError(f'out_dtype must be a floating-point torch.dtype or None, got {out_dtype!r}')
    return out_dtype
