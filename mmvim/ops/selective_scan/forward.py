"""Forward pass of the chunked scan."""

from __future__ import annotations

from torch import Tensor

from mmvim.ops.selective_scan.access import ChunkIndex, Writer
from mmvim.ops.selective_scan.chunk import ChunkBuffers, Project, Workspace
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
    if problem.num_paths > out.shape[1]:
        out.zero_()
    work = Workspace(problem.A)
    for slab in plan.slabs:
        _forward_slab(problem, plan, slab, out, last_state, boundaries, work)


def _forward_slab(problem: Problem, plan: Plan, slab: Slab, out: Tensor, last_state: Tensor,
                  boundaries: Tensor | None, work: Workspace) -> None:
    inputs = SlabInputs(problem, slab)
    target = inputs.part(out, channels=True)
    index = ChunkIndex()
    buffers: dict[tuple[int, int], tuple[ChunkBuffers, Tensor, Project, Writer]] = {}

    carry = work.get('carry', *inputs.state_shape)
    if problem.initial_state is None:
        carry.zero_()
    else:
        carry.copy_(inputs.state(problem.initial_state))
    for i, chunk in enumerate(plan.chunks):
        key = (chunk.steps, chunk.segments)
        if key not in buffers:
            x = ChunkBuffers(inputs, work, *key, for_backward=False)
            y = work.get('y', *x.rows, inputs.channels)
            buffers[key] = (x, y, Project(x.states, x.C, inputs.C_constant, y, scratch=x.states),
                            Writer(target, inputs.followed, y, add=problem.num_paths > out.shape[1]))
        x, y, project, writer = buffers[key]
        if boundaries is not None:
            inputs.boundary(boundaries[i]).copy_(carry)
        x.load(chunk, index)
        x.scan(carry)
        project.run()
        if inputs.D is not None:
            y.addcmul_(x.u, inputs.D)
        writer.write(chunk, index)
    inputs.state(last_state).copy_(carry)
