"""From a scan's arguments to the launches that compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton.blocks import CHUNK, MAX_STATE, Blocks, blocks_for, fitting
from mmvim.ops.selective_scan.triton.memory import architecture, channels_last, processors, shared_stride
from mmvim.ops.triton_host.launch import Launch

MAX_PATHS, MAX_MAPS, MAP_BITS = 10, 7, 3
# One warp a processor's quarter is little: loads then wait for nobody. Up to this many programs a processor, L is cut.
WARPS_WANTED = 8
LEAST_SEGMENT = 128


def takes(args: ScanArguments) -> bool:
    """Whether the kernels can run this scan; what they cannot take goes to the 'torch' backend."""
    return (
        args.A.dtype == torch.float32
        and args.B.dim() == 5
        and args.C.dim() == 5
        and args.A.shape[-1] <= MAX_STATE
        and 0 not in args.u.shape
        and args.A.shape[-1] > 0
        and args.num_paths <= MAX_PATHS
        and (args.maps is None or args.maps.shape[0] <= MAX_MAPS)
        and all(x is None or x.dtype != torch.float64 for x in (args.z,))
        and args.out_dtype != torch.float64
    )


@dataclass
class Sizes:
    """Sizes of a scan, and the arguments that all its kernels take."""

    args: ScanArguments

    @cached_property
    def batch(self) -> int:
        return self.args.u.shape[0]

    @cached_property
    def paths(self) -> int:
        return self.args.num_paths

    @cached_property
    def dim(self) -> int:
        return self.args.u.shape[2]

    @cached_property
    def length(self) -> int:
        return self.args.u.shape[3]

    @cached_property
    def d_state(self) -> int:
        return self.args.A.shape[-1]

    @cached_property
    def groups(self) -> int:
        return self.args.B.shape[2]

    @cached_property
    def group_dim(self) -> int:
        return self.dim // self.groups

    @cached_property
    def chunks(self) -> int:
        return -(-self.length // CHUNK)

    @cached_property
    def map_ids(self) -> int:
        return sum((number + 1) << (MAP_BITS * k) for k, number in enumerate(self.args.map_ids))

    @cached_property
    def reverse(self) -> int:
        return sum(bool(backward) << k for k, backward in enumerate(self.args.reverse))

    def blocks(self, kernel: str) -> Blocks:
        u = self.args.u
        return fitting(
            blocks_for(kernel, self.d_state, self.length, u.dtype, architecture(u.device)),
            kernel,
            self.dim,
            self.group_dim,
        )

    def per_group(self, blocks: Blocks) -> int:
        return -(-self.group_dim // blocks.block_d)

    def segments(self, blocks: Blocks) -> tuple[int, int]:
        """How many segments L is cut into, and the steps of each, a whole number of chunks.

        Cutting computes every state twice, so it must win more than that: where it would make two, it is left.
        """
        programs = self.batch * self.paths * self.groups * self.per_group(blocks)
        wanted = WARPS_WANTED * processors(self.args.u.device) // programs
        count = min(wanted, self.length // LEAST_SEGMENT)
        if count < 3:
            return 1, self.length
        steps = -(-self.length // count)
        steps = -(-steps // CHUNK) * CHUNK
        return -(-self.length // steps), steps

    def common(self, blocks: Blocks, segments: int, segment: int) -> dict:
        return {
            'L': self.length,
            'dim': self.dim,
            'group_dim': self.group_dim,
            'blocks': self.groups * self.per_group(blocks),
            'segment': segment,
            'segments': segments,
            'map_ids': self.map_ids,
            'reverse': self.reverse,
            'PATHS': self.paths,
            'N': self.d_state,
            'maps': self.args.maps,
            'SOFTPLUS': self.args.delta_softplus,
        }


def strides(name: str, x: Tensor | None, axes: str, shape: str) -> dict[str, int]:
    """Arguments name_axis of the kernels, for some axes of `x`; 0 for an absent tensor or an axis of size 1."""
    return {f'{name}_{axis}': 0 if x is None else shared_stride(x, shape.index(axis)) for axis in axes}


def forward(
    args: ScanArguments, save: bool, cut: dict[str, Blocks] | None = None, segments: int | None = None
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """The launches of the forward pass, and what they fill, see :func:`allocate`.

    Args:
        args: The scan.
        save: Keep what the backward pass needs.
        cut: Block sizes by kernel. Defaults to None, the table's.
        segments: Number of segments of L. Defaults to None, as many as fill the device.
    """
    sizes = Sizes(args)
    blocks = (cut or {}).get('forward') or sizes.blocks('forward')
    u, delta, B, C, z = (channels_last(x) for x in (args.u, args.delta, args.B, args.C, args.z))
    count, steps = sizes.segments(blocks) if segments is None else divide(sizes, segments)
    merge = sizes.paths > 1 and not args.stack
    out, last_state, y, bounds = allocate(args, save)
    paths_out = out.new_empty((sizes.batch, sizes.paths, sizes.length, sizes.dim)) if merge else out
    launches, carry = [], state_rows(args.initial_state)
    D, bias = dense(args.D), dense(args.delta_bias)
    scan = {
        'u': u,
        'delta': delta,
        'A': args.A,
        'B': B,
        'C': C,
        'D': D,
        'bias': bias,
        **strides('u', u, 'bkl', 'bkdl'),
        **strides('delta', delta, 'bkl', 'bkdl'),
        **strides('A', args.A, 'kdn', 'kdn'),
        **strides('B', B, 'bkgl', 'bkgnl'),
        **strides('C', C, 'bkgl', 'bkgnl'),
        **strides('D', D, 'k', 'kd'),
        **strides('bias', bias, 'k', 'kd'),
    }
    if count > 1:
        before, carry = segment_states(sizes, scan, None, carry, count, steps, False, cut)
        launches += before
    programs = sizes.batch * sizes.paths * count * sizes.groups * sizes.per_group(blocks)
    arguments = {
        **sizes.common(blocks, count, steps),
        **scan,
        **follow(args),
        'CHUNK': CHUNK,
        'z': None if merge else z,
        **strides('z', z, 'bl', 'bdl'),
        'carry': carry,
        'parked': args.A.new_empty((programs, sizes.d_state, blocks.block_d)) if blocks.parked else None,
        'out': paths_out,
        'y': None if merge else y,
        'last_state': last_state,
        'bounds': bounds,
        'PARKED': blocks.parked,
        **blocks.constants(),
    }
    from mmvim.ops.selective_scan.triton.forward import scan_forward
    from mmvim.ops.selective_scan.triton.reduce import merge_paths

    launches.append(Launch(scan_forward, programs, arguments, blocks.warps, 'forward', blocks.options(args.u.device)))
    if merge:
        launches.append(merging(merge_paths, paths_out, out, z, y))
    return launches, (out, last_state, y, bounds)


def allocate(args: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What the forward pass fills, in the kernels' order.

    Returns:
        out: (b, 1|K, L, D) in `args.out_dtype`.
        last_state: (b, K, N, D) float32.
        y: The output before gating, as `out`, if there is z and `save`.
        bounds: (b, K, ceil(L / CHUNK), N, D) float32, if `save`.
    """
    batch, _, dim, length = args.u.shape
    paths, d_state = args.num_paths, args.A.shape[-1]
    shape = (batch, paths if args.stack else 1, length, dim)
    out = args.u.new_empty(shape, dtype=args.out_dtype)
    y = args.u.new_empty(shape, dtype=args.out_dtype) if save and args.z is not None else None
    bounds = args.A.new_empty((batch, paths, -(-length // CHUNK), d_state, dim)) if save else None
    return out, args.A.new_empty((batch, paths, d_state, dim)), y, bounds


def backward(
    args: ScanArguments,
    grad_out: Tensor,
    grad_last_state: Tensor | None,
    y: Tensor | None,
    bounds: Tensor,
    cut: dict[str, Blocks] | None = None,
    segments: int | None = None,
) -> tuple[list[Launch], Callable[[], dict[str, Tensor]]]:
    """The launches of the backward pass, and a function that adds up what they leave.

    Args:
        args: The scan.
        grad_out: (b, 1|K, D, L).
        grad_last_state: (b, K, D, N) or None.
        y, bounds: What the forward pass filled.
        cut, segments: As in :func:`forward`.
    """
    from mmvim.ops.selective_scan.triton.backward import scan_backward
    from mmvim.ops.selective_scan.triton.reduce import merge_paths

    sizes = Sizes(args)
    blocks = (cut or {}).get('backward') or sizes.blocks('backward')
    u, delta, B, C, z, dout = (channels_last(x) for x in (args.u, args.delta, args.B, args.C, args.z, grad_out))
    count, steps = sizes.segments(blocks) if segments is None else divide(sizes, segments)
    rates = args.A.transpose(-1, -2).contiguous()
    per_group = sizes.per_group(blocks)
    rows, tail = (sizes.batch, sizes.paths), (sizes.length, sizes.dim)
    programs = sizes.batch * sizes.paths * count * sizes.groups * per_group

    def per_path(x: Tensor) -> Tensor:
        return x.new_empty((*rows, *tail))

    parts = {'du': per_path(u), 'ddelta': per_path(delta)}
    for name in ('dB', 'dC'):
        parts[name] = args.A.new_empty(
            (*rows, sizes.groups, per_group, -(-sizes.length // blocks.steps), sizes.d_state, blocks.steps)
        )
    parts['dA'] = args.A.new_empty((*rows, count, sizes.d_state, sizes.dim))
    for name, x in (('dD', args.D), ('dbias', args.delta_bias)):
        parts[name] = None if x is None else args.A.new_empty((*rows, count, sizes.dim))
    parts['dz'] = None if z is None else z.new_empty((sizes.batch, sizes.paths if args.stack else 1, *tail))
    parts['dfirst'] = None if args.initial_state is None else args.A.new_empty((*rows, sizes.d_state, sizes.dim))
    scratch = args.A.new_empty((programs, CHUNK // blocks.steps + 1, sizes.d_state, blocks.block_d))

    launches, carry = [], state_rows(grad_last_state)
    D, bias = dense(args.D), dense(args.delta_bias)
    scan = {
        'dout': dout,
        'u': u,
        'delta': delta,
        'A': rates,
        'B': B,
        'C': C,
        'D': D,
        'bias': bias,
        **strides('dout', dout, 'bkl', 'bkdl'),
        **strides('u', u, 'bkl', 'bkdl'),
        **strides('delta', delta, 'bkl', 'bkdl'),
        **strides('B', B, 'bkgl', 'bkgnl'),
        **strides('C', C, 'bkgl', 'bkgnl'),
        **strides('D', D, 'k', 'kd'),
        **strides('bias', bias, 'k', 'kd'),
        **strides('A', rates, 'k', 'knd'),
    }
    if count > 1:
        before, carry = segment_states(
            sizes, {**scan, **strides('A', rates, 'kdn', 'knd')}, z, carry, count, steps, True, cut
        )
        launches += before
    arguments = {
        **sizes.common(blocks, count, steps),
        **scan,
        **follow(args),
        'CHUNK': CHUNK,
        'z': z,
        **strides('z', z, 'bl', 'bdl'),
        'carry': carry,
        'bounds': bounds,
        'y': y,
        'Y_PATHS': sizes.paths if args.stack else 1,
        'scratch': scratch,
        **parts,
        **strides('du', parts['du'], 'bk', 'bkld'),
        **strides('ddelta', parts['ddelta'], 'bk', 'bkld'),
        **strides('dz', parts['dz'], 'bk', 'bkld'),
        **blocks.constants(),
    }
    launches.append(Launch(scan_backward, programs, arguments, blocks.warps, 'backward', blocks.options(args.u.device)))
    for name, x, followed in (('B', args.B, args.follow[2]), ('C', args.C, args.follow[3])):
        own = x.shape[1] == sizes.paths
        summed = args.A.new_empty(
            (*rows, sizes.groups, sizes.length, sizes.d_state), dtype=x.dtype if own else args.A.dtype
        )
        launches.append(collecting(sizes, parts[f'd{name}'], summed, bool(followed), blocks.steps))
        parts[f'd{name}'] = summed
    for name, paths in (('du', args.u.shape[1]), ('ddelta', args.delta.shape[1]), ('dz', 1)):
        part = parts[name]
        if part is not None and part.shape[1] > paths:
            parts[name] = part.new_empty((sizes.batch, 1, *tail))
            launches.append(merging(merge_paths, part, parts[name], None, None, 'add'))
    return launches, lambda: _collect(args, parts)


def collecting(sizes: Sizes, x: Tensor, out: Tensor, followed: bool, steps: int) -> Launch:
    """The launch that sums the gradient of B or C over blocks of channels."""
    from mmvim.ops.selective_scan.triton.reduce import collect_projections

    block_n = 1 << (sizes.d_state - 1).bit_length()
    block_l = max(8, 512 // block_n)
    arguments = {
        'x': x,
        'maps': sizes.args.maps,
        'out': out,
        'L': sizes.length,
        'blocks': x.shape[3],
        'map_ids': sizes.map_ids,
        'reverse': sizes.reverse,
        'PATHS': sizes.paths,
        'GROUPS': sizes.groups,
        'N': sizes.d_state,
        'FOLLOW': followed,
        'STEPS': steps,
        'BLOCK_N': block_n,
        'BLOCK_L': block_l,
    }
    programs = sizes.batch * sizes.paths * sizes.groups * -(-sizes.length // block_l)
    return Launch(collect_projections, programs, arguments, 4, 'collect')


def _collect(args: ScanArguments, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients by input, in their shapes and dtypes; always summed in one order."""

    def over_paths(part: Tensor, shared: bool, *axes: int) -> Tensor:
        axes = (*axes, 1) if shared and part.shape[1] > 1 else axes
        return part.sum(axes, keepdim=True) if axes else part

    grads = {}
    for name in ('u', 'delta'):
        grads[name] = parts[f'd{name}'].transpose(2, 3)
    for name in ('B', 'C'):
        x, part = getattr(args, name), parts[f'd{name}']
        grads[name] = over_paths(part, x.shape[1] == 1).transpose(3, 4).to(x.dtype)
    grads['A'] = over_paths(parts['dA'], args.A.shape[0] == 1, 0, 2).squeeze(2).squeeze(0).transpose(1, 2)
    for name, key in (('D', 'dD'), ('delta_bias', 'dbias')):
        if parts[key] is not None:
            grads[name] = over_paths(parts[key], getattr(args, name).shape[0] == 1, 0, 2).squeeze(2).squeeze(0)
    if parts['dz'] is not None:
        grads['z'] = parts['dz'].squeeze(1).transpose(1, 2)
    if parts['dfirst'] is not None:
        grads['initial_state'] = parts['dfirst'].transpose(2, 3)
    return grads


def divide(sizes: Sizes, segments: int) -> tuple[int, int]:
    """That many segments, or as many as there are chunks for."""
    steps = -(-sizes.chunks // segments) * CHUNK
    return (-(-sizes.length // steps), steps) if segments > 1 else (1, sizes.length)


def follow(args: ScanArguments) -> dict[str, bool]:
    """Which tensors follow the paths, as the kernels' arguments."""
    return dict(zip(('FOLLOW_U', 'FOLLOW_DELTA', 'FOLLOW_B', 'FOLLOW_C'), map(bool, args.follow), strict=True))


def dense(x: Tensor | None) -> Tensor | None:
    """A vector a path, (1|K, D), as the kernels read it."""
    return None if x is None else x.contiguous()


def state_rows(state: Tensor | None) -> Tensor | None:
    """(b, K, D, N) as the kernels read states, (b, K, N, D) and dense."""
    return None if state is None else state.transpose(-1, -2).contiguous()


def merging(kernel, x: Tensor, out: Tensor, z: Tensor | None, y: Tensor | None, name: str = 'merge') -> Launch:
    """The launch that adds `x` (b, K, L, D) up over K in float32, rounded once."""
    batch, paths, length, dim = x.shape
    block_d = 128 if dim >= 128 else 32
    block_l = 8
    arguments = {
        'x': x,
        'z': z,
        'out': out,
        'y': y,
        'L': length,
        'dim': dim,
        **strides('z', z, 'bl', 'bdl'),
        'PATHS': paths,
        'BLOCK_L': block_l,
        'BLOCK_D': block_d,
    }
    return Launch(kernel, batch * -(-length // block_l) * -(-dim // block_d), arguments, 4, name)


def segment_states(
    sizes: Sizes,
    scan: dict,
    z: Tensor | None,
    first: Tensor | None,
    count: int,
    steps: int,
    adjoint: bool,
    cut: dict[str, Blocks] | None,
) -> tuple[list[Launch], Tensor]:
    """The launches that find the state before (adjoint: the gradient after) each segment, and where they leave it.

    Args:
        scan: The kernels' arguments; x and W are u and B, or adjoint the output's gradient and C.
        z: Gate, adjoint only.
        first: The state before all (adjoint: the gradient after all), (b, K, N, D), or None.
    """
    from mmvim.ops.selective_scan.triton.segments import chain_segments, segment_ends

    args, blocks = sizes.args, (cut or {}).get('segments') or sizes.blocks('segments')
    rows = (sizes.batch, sizes.paths, count)
    ends = args.A.new_empty((*rows, sizes.d_state, sizes.dim))
    totals = args.A.new_empty((*rows, sizes.dim))
    x, W = ('dout', 'C') if adjoint else ('u', 'B')
    followed = follow(args)
    arguments = {
        **sizes.common(blocks, count, steps),
        'x': scan[x],
        'delta': scan['delta'],
        'A': scan['A'],
        'W': scan[W],
        'bias': scan['bias'],
        'z': z,
        'ends': ends,
        'totals': totals,
        **{f'x_{axis}': scan[f'{x}_{axis}'] for axis in 'bkl'},
        **{f'W_{axis}': scan[f'{W}_{axis}'] for axis in 'bkgl'},
        **{f'delta_{axis}': scan[f'delta_{axis}'] for axis in 'bkl'},
        **{f'A_{axis}': scan[f'A_{axis}'] for axis in 'kdn'},
        'bias_k': scan['bias_k'],
        **strides('z', z, 'bl', 'bdl'),
        'FOLLOW_X': adjoint or followed['FOLLOW_U'],
        'FOLLOW_DELTA': followed['FOLLOW_DELTA'],
        'FOLLOW_W': followed['FOLLOW_C' if adjoint else 'FOLLOW_B'],
        'ADJOINT': adjoint,
        'PARKED': blocks.parked,
        **blocks.constants(),
    }
    programs = sizes.batch * sizes.paths * (count - 1) * arguments['blocks']
    chain = {
        'ends': ends,
        'totals': totals,
        'first': first,
        'A': scan['A'],
        'dim': sizes.dim,
        'segments': count,
        **{f'A_{axis}': scan[f'A_{axis}'] for axis in 'kdn'},
        'PATHS': sizes.paths,
        'N': sizes.d_state,
        'ADJOINT': adjoint,
        'AHEAD': 8,
        'BLOCK_D': 128,
    }
    chains = sizes.batch * sizes.paths * sizes.d_state * -(-sizes.dim // 128)
    return [
        Launch(segment_ends, programs, arguments, blocks.warps, 'segments', blocks.options(args.u.device)),
        Launch(chain_segments, chains, chain, 4, 'chain'),
    ], ends
