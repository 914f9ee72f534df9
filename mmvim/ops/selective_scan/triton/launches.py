"""From a scan's arguments to the launches that compute it."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton.blocks import CHUNK, MAX_STATE
from mmvim.ops.selective_scan.triton.gradients import Gradient, gradients_of
from mmvim.ops.selective_scan.triton.memory import (
    block_rates,
    channels_last,
    contiguous_or_none,
    new_tensor,
    pass_tensor,
    states_first,
)
from mmvim.ops.selective_scan.triton.outputs import allocate, is_merged, split_saved
from mmvim.ops.selective_scan.triton.sizes import Sizes, count_map_bits
from mmvim.ops.triton_host.launch import Launch


def can_run(args: ScanArguments) -> bool:
    """Check whether the kernels can run this scan; the 'torch' backend runs what they cannot.

    The numbers of all paths' maps share 64 bits, see :func:`~.sizes.count_map_bits`: enough for 16 paths over 15 maps,
    or 21 over 7.
    """
    return (
        args.A.dtype == torch.float32
        and args.B.dim() == 5
        and args.C.dim() == 5
        and 0 < args.A.shape[-1] <= MAX_STATE
        and 0 not in (*args.u.shape, args.length, args.steps)
        and count_map_bits(args.map_ids) * args.num_paths <= 64
        and (args.z is None or args.z.dtype != torch.float64)
        and args.out_dtype != torch.float64
    )


def lay_out(args: ScanArguments) -> ScanArguments:
    """Return the scan with channels (or states) of its large tensors contiguous: each as it is, or a copy."""
    tensors = (args.u, args.delta, args.B, args.C, *([] if args.z is None else [args.z]))
    if all(x.stride(-2) == 1 or x.shape[-2] == 1 for x in tensors):
        return args
    u, delta, B, C = map(channels_last, (args.u, args.delta, args.B, args.C))
    return args._replace(u=u, delta=delta, B=B, C=C, z=None if args.z is None else channels_last(args.z))


def forward(
    args: ScanArguments, save: bool, segments: int | None = None, device: torch.device | None = None
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor]]:
    """Return the launches of the forward pass, and what they fill, see :func:`.outputs.allocate`.

    Args:
        args: The scan.
        save: Whether to keep what the backward pass needs.
        segments: Number of segments of a path. Defaults to None, the choice of :mod:`.cut`.
        device: Where the kernels are to run. Defaults to None, where the tensors are.
    """
    from mmvim.ops.selective_scan.triton.forward import scan_forward

    args = lay_out(args)
    sizes = Sizes(args, device or args.u.device)
    u, delta, B, C, z = args.u, args.delta, args.B, args.C, args.z
    D, bias = contiguous_or_none(args.D), contiguous_or_none(args.delta_bias)
    blocks, count, steps = sizes.cut('forward', segments)
    out, last_state, saved = allocate(args, save)
    boundaries, y = split_saved(args, saved) if save else (None, None)
    # Paths that are summed leave an output each, which another kernel adds up and gates.
    merge = is_merged(args)
    paths_shape = (sizes.batch, sizes.paths, sizes.length, sizes.dim)
    paths_out = new_tensor(out, paths_shape, args.partial) if merge else out

    launches: list[Launch] = []
    carry = states_first(args.initial_state)
    if count > 1:
        launches, carry = launch_segments(sizes, u, delta, args.A, B, bias, None, carry, (count, steps), False)
    programs = sizes.programs(blocks, count)
    in_memory = blocks.states_in_memory
    arguments = {
        **sizes.common(blocks, count, steps),
        **sizes.follow,
        **pass_tensor('u', u, 'bkl', 'bkdl'),
        **pass_tensor('delta', delta, 'bkl', 'bkdl'),
        **pass_tensor('A', args.A, 'kdn', 'kdn'),
        **pass_tensor('B', B, 'bkgl', 'bkgnl'),
        **pass_tensor('C', C, 'bkgl', 'bkgnl'),
        'B_zeros_ptr': sizes.zeros_like(B),
        'C_zeros_ptr': sizes.zeros_like(C),
        **pass_tensor('D', D, 'k', 'kd'),
        **pass_tensor('bias', bias, 'k', 'kd'),
        **pass_tensor('z', z, 'bl', 'bdl'),
        'z_ptr': None if merge else z,
        'carry_ptr': carry,
        'state_ptr': new_tensor(args.A, (programs, sizes.d_state, blocks.block_d)) if in_memory else None,
        'out_ptr': paths_out,
        'y_ptr': None if merge else y,
        'last_state_ptr': last_state,
        'boundaries_ptr': boundaries,
        'CHUNK': CHUNK,
        'STATES_IN_MEMORY': in_memory,
    }
    launches.append(Launch(scan_forward, programs, arguments, blocks.warps, 'forward', blocks.options(sizes.device)))
    if merge:
        launches.append(launch_merge(paths_out, out, z, y))
    return launches, (out, last_state, saved)


def backward(
    args: ScanArguments,
    grad_out: Tensor,
    grad_last_state: Tensor | None,
    saved: Tensor,
    segments: int | None = None,
    device: torch.device | None = None,
) -> tuple[list[Launch], dict[str, Gradient]]:
    """Return the launches of the backward pass, and what becomes of what they leave, by input.

    Args:
        args: The scan.
        grad_out: (b, 1|K, D, L).
        grad_last_state: (b, K, D, N), or None.
        saved: What the forward pass saved.
        segments: Number of segments of a path. Defaults to None, the choice of :mod:`.cut`.
        device: Where the kernels are to run. Defaults to None, where the tensors are.
    """
    from mmvim.ops.selective_scan.triton.backward import scan_backward

    args = lay_out(args)  # as it is already, but in an exported program
    sizes = Sizes(args, device or args.u.device)
    boundaries, y = split_saved(args, saved)
    u, delta, B, C, z, dout = args.u, args.delta, args.B, args.C, args.z, channels_last(grad_out)
    D, bias = contiguous_or_none(args.D), contiguous_or_none(args.delta_bias)
    blocks, count, steps = sizes.cut('backward', segments)
    out_paths = sizes.paths if args.stack else 1
    rows = (sizes.batch, sizes.paths)
    programs = sizes.programs(blocks, count)

    # Each path has its own gradients here, each segment its share of sums over steps, and each block of channels its
    # share of sums over channels.
    parts = {}
    for name, x in (('u', u), ('delta', delta)):
        columns, clear = sizes.columns(name)
        parts[f'd{name}'] = new_tensor(x, (*rows, columns, sizes.dim), clear)
    per_group, tiles = sizes.blocks_of_group(blocks), -(-sizes.num_steps // blocks.steps)
    shares = new_tensor(args.A, (2, *rows, sizes.groups, per_group, tiles, sizes.d_state, blocks.steps))
    parts['dC'], parts['dB'] = shares
    parts['dA'] = new_tensor(args.A, (*rows, count, sizes.d_state, sizes.dim))
    for name, x in (('dD', D), ('dbias', bias)):
        if x is not None:
            parts[name] = new_tensor(args.A, (*rows, count, sizes.dim))
    # A path of several that are summed can write the gradient of their gate only if it comes to every position.
    gate_apart = z is not None and args.partial and is_merged(args)
    if z is not None:
        clear = args.partial and not gate_apart
        parts['dz'] = new_tensor(z, (sizes.batch, out_paths, sizes.length, sizes.dim), clear)
    own_dz = None if gate_apart else parts.get('dz')
    if args.initial_state is not None:
        parts['dinitial'] = new_tensor(args.A, (*rows, sizes.d_state, sizes.dim))

    launches: list[Launch] = []
    carry = states_first(grad_last_state)
    if count > 1:
        launches, carry = launch_segments(sizes, dout, delta, args.A, C, bias, z, carry, (count, steps), True)
    arguments = {
        **sizes.common(blocks, count, steps),
        **sizes.follow,
        **pass_tensor('dout', dout, 'bkl', 'bkdl'),
        'WIDE': sizes.wide_with(dout),
        **pass_tensor('u', u, 'bkl', 'bkdl'),
        **pass_tensor('delta', delta, 'bkl', 'bkdl'),
        **pass_tensor('rates', block_rates(args.A, sizes.groups, blocks.block_d), 'k', 'kwnd'),
        **pass_tensor('B', B, 'bkgl', 'bkgnl'),
        **pass_tensor('C', C, 'bkgl', 'bkgnl'),
        'B_zeros_ptr': sizes.zeros_like(B),
        'C_zeros_ptr': sizes.zeros_like(C),
        **pass_tensor('D', D, 'k', 'kd'),
        **pass_tensor('bias', bias, 'k', 'kd'),
        **pass_tensor('z', z, 'bl', 'bdl'),
        'carry_ptr': carry,
        'boundaries_ptr': boundaries,
        'y_ptr': None if gate_apart else y,
        'state_ptr': new_tensor(args.A, (programs, CHUNK // blocks.steps + 2, sizes.d_state, blocks.block_d)),
        **{f'{name}_ptr': parts.get(name) for name in ('dA', 'dD', 'dbias', 'dinitial')},
        'shares_ptr': shares,
        **pass_tensor('du', parts['du'], 'bk', 'bkld'),
        **pass_tensor('ddelta', parts['ddelta'], 'bk', 'bkld'),
        **pass_tensor('dz', own_dz, 'bk', 'bkld'),
        'CHUNK': CHUNK,
        'Y_PATHS': out_paths,
    }
    launches.append(Launch(scan_backward, programs, arguments, blocks.warps, 'backward', blocks.options(sizes.device)))
    if gate_apart and z is not None and y is not None:
        launches.append(launch_gate(dout, z, y, parts['dz']))

    for name, x in (('B', args.B), ('C', args.C)):
        dtype = x.dtype if x.shape[1] == sizes.paths else args.A.dtype  # what is summed over paths is rounded later
        columns, clear = sizes.columns(name)
        summed = new_tensor(args.A, (*rows, sizes.groups, columns, sizes.d_state), clear, dtype)
        launches.append(launch_collect(sizes, parts[f'd{name}'], summed, sizes.follow[f'FOLLOW_{name}'], blocks.steps))
        parts[f'd{name}'] = summed
    for name, paths in (('du', args.u.shape[1]), ('ddelta', args.delta.shape[1]), ('dz', 1)):
        part = parts.get(name)
        if part is not None and part.shape[1] > paths:
            parts[name] = new_tensor(part, (sizes.batch, 1, *part.shape[2:]))
            launches.append(launch_merge(part, parts[name], None, None, 'add'))
    return launches, gradients_of(args, parts)


def launch_collect(sizes: Sizes, x: Tensor, out: Tensor, follow: bool, steps: int) -> Launch:
    """Return the launch that sums the gradient of B or C over blocks of channels.

    Args:
        sizes: Of the scan.
        x: Each block's share, in tiles of steps; see :func:`~.reduce.collect_projections`.
        out: (b, K, G, L, N), or with T instead of L if the tensor does not follow the paths.
        follow: Whether the tensor follows the paths.
        steps: Steps of a tile.
    """
    from mmvim.ops.selective_scan.triton.reduce import collect_projections

    block_n = 1 << (sizes.d_state - 1).bit_length()
    block_l = max(8, 512 // block_n)
    arguments = {
        **sizes.paths_and_states(),
        'x_ptr': x,
        'out_ptr': out,
        'blocks': x.shape[3],
        'GROUPS': sizes.groups,
        'FOLLOW': follow,
        'STEPS': steps,
        'BLOCK_N': block_n,
        'BLOCK_L': block_l,
    }
    programs = sizes.batch * sizes.paths * sizes.groups * -(-sizes.num_steps // block_l)
    return Launch(collect_projections, programs, arguments, 4, 'collect')


def launch_merge(x: Tensor, out: Tensor, z: Tensor | None, y: Tensor | None, name: str = 'merge') -> Launch:
    """Return the launch that adds ``x`` (b, K, L, D), rounded to its dtype before, up over K in float32.

    Args:
        x: The paths' outputs or gradients.
        out: The sum, (b, 1, L, D), gated if there is z.
        z: Gate, (b, D, L), or None.
        y: The sum before gating, as ``out``, or None.
        name: Of the launch. Defaults to 'merge'.
    """
    from mmvim.ops.selective_scan.triton.reduce import merge_paths

    programs, common = _cut_positions(out)
    arguments = {
        **common,
        'x_ptr': x,
        **pass_tensor('z', z, 'bl', 'bdl'),
        'out_ptr': out,
        'y_ptr': y,
        'PATHS': x.shape[1],
    }
    return Launch(merge_paths, programs, arguments, 4, name)


def launch_gate(dout: Tensor, z: Tensor, y: Tensor, dz: Tensor) -> Launch:
    """Return the launch that finds the gradient of the gate of summed paths.

    Args:
        dout: Gradient of the gated sum, (b, 1, D, L).
        z: Gate, (b, D, L).
        y: The sum before gating, (b, 1, L, D).
        dz: Gradient of the gate, (b, 1, L, D).
    """
    from mmvim.ops.selective_scan.triton.reduce import gate_gradient

    programs, common = _cut_positions(dz)
    arguments = {
        **common,
        **pass_tensor('dout', dout, 'bl', 'bkdl'),
        **pass_tensor('z', z, 'bl', 'bdl'),
        'y_ptr': y,
        'dz_ptr': dz,
    }
    return Launch(gate_gradient, programs, arguments, 4, 'gate')


def _cut_positions(out: Tensor) -> tuple[int, dict[str, int]]:
    """Return the programs that fill (b, 1, L, D) block by block, and what they are told of its size."""
    batch, _, length, dim = out.shape
    block_d, block_l = 128 if dim >= 128 else 32, 8
    programs = batch * -(-length // block_l) * -(-dim // block_d)
    return programs, {'length': length, 'dim': dim, 'BLOCK_L': block_l, 'BLOCK_D': block_d}


def launch_segments(
    sizes: Sizes,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    W: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    first: Tensor | None,
    segments: tuple[int, int],
    adjoint: bool,
) -> tuple[list[Launch], Tensor]:
    """Return the launches that find the state before (adjoint: the gradient after) each segment, and that tensor.

    Args:
        sizes: Of the scan.
        x: u; adjoint: the gradient of the output.
        delta: Step sizes, (b, 1|K, D, L).
        A: (1|K, D, N), any strides.
        W: B; adjoint: C.
        bias: Of delta, or None.
        z: Gate, or None; adjoint only.
        first: The state before all (adjoint: the gradient after all) segments, (b, K, N, D), or None.
        segments: Number of segments, and the steps of each.
        adjoint: Whether gradients are wanted.

    Returns:
        The launches, and (b, K, segments, N, D) float32.
    """
    from mmvim.ops.selective_scan.triton.segments import chain_segments, segment_ends

    args, (count, steps) = sizes.args, segments
    blocks = sizes.blocks_of_ends(segments, adjoint)
    rows = (sizes.batch, sizes.paths, count)
    ends, totals = new_tensor(args.A, (*rows, sizes.d_state, sizes.dim)), new_tensor(args.A, (*rows, sizes.dim))
    shared = {**pass_tensor('A', A, 'kdn', 'kdn'), 'ends_ptr': ends, 'totals_ptr': totals, 'ADJOINT': adjoint}
    arguments = {
        **sizes.common(blocks, count, steps),
        **shared,
        **pass_tensor('x', x, 'bkl', 'bkdl'),
        **pass_tensor('delta', delta, 'bkl', 'bkdl'),
        **pass_tensor('W', W, 'bkgl', 'bkgnl'),
        'W_zeros_ptr': sizes.zeros_like(W),
        **pass_tensor('bias', bias, 'k', 'kd'),
        **pass_tensor('z', z, 'bl', 'bdl'),
        'WIDE': sizes.wide_with(x),
        'FOLLOW_X': adjoint or sizes.follow['FOLLOW_U'],
        'FOLLOW_DELTA': sizes.follow['FOLLOW_DELTA'],
        'FOLLOW_W': sizes.follow['FOLLOW_C' if adjoint else 'FOLLOW_B'],
        'STATES_IN_MEMORY': blocks.states_in_memory,
    }
    chain = {
        **shared,
        'first_ptr': first,
        'dim': sizes.dim,
        'segments': count,
        'PATHS': sizes.paths,
        'N': sizes.d_state,
        'AHEAD': 8,
        'BLOCK_D': 128,
    }
    programs = sizes.programs(blocks, count - 1)
    chains = sizes.batch * sizes.paths * sizes.d_state * -(-sizes.dim // 128)
    return [
        Launch(segment_ends, programs, arguments, blocks.warps, 'segments', blocks.options(sizes.device)),
        Launch(chain_segments, chains, chain, 4, 'chain'),
    ], ends
