"""Forward pass of the chunked scan."""

from __future__ import annotations

from torch import Tensor

from mmvim.ops.selective_scan.access import ChunkIndex, Writer
from mmvim.ops.selective_scan.chunk import ChunkInputs, Workspace, decays, outer, project, scan_forward
from mmvim.ops.selective_scan.plan import Plan, Slab
from mmvim.ops.selective_scan.problem import Problem, SlabInputs


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
    if add:
        out.zero_()
    work = Workspace(problem.A)
    for slab in plan.slabs:
        _forward_slab(problem, plan, slab, out, add, last_state, boundaries, work)


def _forward_slab(problem: Problem, plan: Plan, slab: Slab, out: Tensor, add: bool, last_state: Tensor,
                  boundaries: Tensor | None, work: Workspace) -> None:
    followed, raster = problem.path_groups(slab)
    inputs = SlabInputs(problem, slab, followed, raster)
    writer = Writer(inputs.part(out, channels=True), followed, add)
    index = ChunkIndex()
    sizes = (*inputs.rows, inputs.d_state, inputs.channels)

    carry = problem.A.new_zeros(sizes)
    if problem.initial_state is not None:
        carry.copy_(inputs.state(problem.initial_state))
    for i, chunk in enumerate(plan.chunks):
        if boundaries is not None:
            inputs.boundary(boundaries[i]).copy_(carry)
        x = ChunkInputs(inputs, chunk, index)
        decay, decay_steps = decays(inputs, x, work)
        h, steps = work.get('state', (chunk.steps, chunk.segments, *sizes))
        outer(x.delta * x.u, x.B, inputs.B_constant, out=h)
        before = scan_forward(carry, steps, decay_steps, decay_steps if chunk.segments > 1 else None)
        if before is not None:
            h.addcmul_(decay, before)
        carry.copy_(h[-1, -1])
        y = project(h, x.C, inputs.C_constant, scratch=h)
        if inputs.D is not None:
            y.addcmul_(x.u, inputs.D)
        writer.write(y, chunk, index)
    inputs.state(last_state).copy_(carry)
