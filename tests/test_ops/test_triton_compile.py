"""What the scan's kernels take of a GPU, from compiling them for it here: registers, shared memory, and no spills.

Three of the table's specialisations by default, one for each architecture; all of them, in about ten minutes, with
MMVIM_TEST_EVERY_KERNEL=1.
"""

import itertools
import os

import pytest
import torch

from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton import installed, interpreting, plan
from mmvim.ops.selective_scan.triton.blocks import blocks_for

pytestmark = pytest.mark.skipif(not installed() or interpreting(), reason='Triton is not installed, or interprets')

EVERY = os.environ.get('MMVIM_TEST_EVERY_KERNEL') == '1'
SPECIALISATIONS = [*itertools.product((1, 8, 16, 64), (torch.float16, torch.bfloat16, torch.float32), (80, 90, 100))] \
    if EVERY else [(1, torch.float32, 80), (16, torch.float16, 90), (8, torch.bfloat16, 100)]
# Threads of a warp and registers of a processor: so many warps of a kernel find room.
LEAST_WARPS = {'forward': 8, 'segments': 8, 'backward': 8, 'merge': 16, 'collect': 16, 'chain': 16}
MOST_SHARED = 16 * 1024


def launches(d_state, dtype):
    """Those of a Vim block's forward and backward pass, and of one that is cut into segments; nothing runs."""
    batch, paths, length, dim = 1, 2, 1024, 384

    def empty(*shape, kind=dtype):
        return torch.empty(shape, dtype=kind, device='meta')
    full = torch.float32
    args = ScanArguments(
        empty(batch, paths, length, dim).mT, empty(batch, paths, length, dim).mT, empty(paths, dim, d_state, kind=full),
        empty(batch, paths, 1, length, d_state).mT, empty(batch, paths, 1, length, d_state).mT,
        empty(paths, dim, kind=full), empty(batch, length, dim).mT, empty(paths, dim, kind=full), None, None, (-1, -1),
        (False, True), (True,) * 4, True, False, dtype)
    forward, (out, _, y, bounds) = plan.forward(args, True, segments=4)
    backward, _ = plan.backward(args, out.mT, None, y, bounds, segments=4)
    return forward + backward


@pytest.mark.parametrize(('d_state', 'dtype', 'arch'), SPECIALISATIONS, ids=str)
def test_no_spills(d_state, dtype, arch, monkeypatch, record_property):
    from mmvim.ops.selective_scan.triton.resources import compile_launch, read_resources
    monkeypatch.undo()  # meta tensors need no NaN
    monkeypatch.setattr(plan, 'architecture', lambda device: arch)
    names = []
    for launch in launches(d_state, dtype):
        found = read_resources(compile_launch(launch, arch))
        names.append(launch.name)
        record_property(f'{launch.name}', str(found))
        print(f'N={d_state} {dtype} sm_{arch} {launch.name}: {found}')
        assert found.spilled == 0, (launch.name, found)
        assert found.shared <= MOST_SHARED, (launch.name, found)
        warps = 65536 // (32 * -(-found.registers // 8) * 8)
        assert warps >= LEAST_WARPS[launch.name], (launch.name, found)
    assert set(names) == set(LEAST_WARPS)


@pytest.mark.parametrize('kernel', ['forward', 'backward', 'segments'])
def test_the_table_has_every_state_and_length(kernel):
    for d_state, length, dtype, arch in itertools.product((1, 2, 17, 64), (1, 100_000), (torch.float16, torch.float32),
                                                          (75, 90, 120)):
        blocks = blocks_for(kernel, d_state, length, dtype, arch)
        assert blocks.warps == 1 and plan.CHUNK % blocks.steps == 0
        assert blocks.block_d & (blocks.block_d - 1) == 0
    with pytest.raises(ValueError, match='no block sizes'):
        blocks_for(kernel, 65, 10, torch.float32, 90)


def test_reading_a_spill():
    """The reader sees what it is to see: a kernel held to 32 registers spills."""
    from mmvim.ops.selective_scan.triton.resources import compile_launch, read_resources
    launch = next(x for x in launches(1, torch.float32) if x.name == 'segments')
    launch.options = {'maxnreg': 24}
    assert read_resources(compile_launch(launch, 90)).spilled > 0
