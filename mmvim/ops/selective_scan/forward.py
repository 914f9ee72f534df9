"""Forward pass of the chunked scan."""

from __future__ import annotations

from torch import Tensor

from mmvim.ops.selective_scan.access import Writer, add_in_order
from mmvim.ops.selective_scan.chunk import ChunkBuffers, Project, Workspace
from mmvim.ops.selective_scan.plan import Plan, Slab
from mmvim.ops.selective_scan.problem import SMALL_STATE, Problem, SlabInputs
from mmvim.ops.selective_scan.whole import skip


def forward(problem: Problem, plan: Plan, out: Tensor, last_state: Tensor, boundaries: Tensor | None) -> None:
    """Scan all slabs, before gating.

    Args:
        problem: The inputs.
        plan: How they are cut.
        out: (b, 1, D, L), the sum over paths, or (b, K, D, L); written.
        last_state: (b, K, D, N) in state dtype; written.
        boundaries: (chunks, K, b, G, N, D/G) in state dtype, receives the state before each chunk; or None.
    """
    add = problem.num_paths > out.shape[1]
    skip_apart = problem.skips_alike()
    if skip_apart:
        skip(problem.u, problem.skip_weight(), out)
    elif add:
        out.zero_()
    work = Workspace(problem.A)
    for slab in plan.slabs:
        _forward_slab(problem, plan, slab, out, add, skip_apart, last_state, boundaries, work)


def _forward_slab(
    problem: Problem,
    plan: Plan,
    slab: Slab,
    out: Tensor,
    add: bool,
    skip_apart: bool,
    last_state: Tensor,
    boundaries: Tensor | None,
    work: Workspace,
) -> None:
    inputs = SlabInputs(problem, plan, slab)
    target = inputs.part(out, channels=True)
    # With few states, writing along an index map takes longer than a further tensor of the output's size costs.
    sums: dict[int, tuple[Tensor, Tensor]] | None = {} if inputs.d_state <= SMALL_STATE else None
    buffers: dict[tuple[int, int], tuple[ChunkBuffers, Tensor, Project, Writer]] = {}

    carry = work.get('carry', *inputs.state_shape)
    if problem.initial_state is None:
        carry.zero_()
    else:
        carry.copy_(inputs.state(problem.initial_state))
    for i, chunk in enumerate(plan.chunks):
        key = (chunk.steps, chunk.segments)
        if key not in buffers:
            x = ChunkBuffers(inputs, work, *key)
            y = work.get('y', *x.rows, inputs.channels)
            buffers[key] = (
                x,
                y,
                Project(x.states, x.C, inputs.C_constant, y, scratch=x.states),
                Writer(target, inputs.followed, y, slab.backward, add, sums),
            )
        x, y, project, writer = buffers[key]
        if boundaries is not None:
            inputs.boundary(boundaries[i]).copy_(carry)
        x.load(i, chunk)
        x.find_starts(carry)
        carry.copy_(x.scan())
        project.run()
        if inputs.D is not None and not skip_apart:
            y.addcmul_(x.u, inputs.D)
        writer.write(i, chunk)
    if sums:
        add_in_order(target, sums)
    inputs.state(last_state).copy_(carry)
