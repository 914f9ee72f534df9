"""What the scan's kernels take of a GPU, from compiling them for it here: no spills, and the recorded resources.

A few specialisations by default, each row of the table of block sizes among them; all of them, in about twenty minutes
of an idle core, with MMVIM_TEST_EVERY_KERNEL=1. `triton_resources.py` has them and writes the record.
"""

import itertools
import os

import pytest
import torch
from triton_resources import ARCHS, DTYPES, EVERY, FEW, LEAST_WARPS, SETTINGS, brief, faults, launches, measure, read

from mmvim.ops.selective_scan.triton import installed, interpreting, plan
from mmvim.ops.selective_scan.triton.block_table import TABLE
from mmvim.ops.selective_scan.triton.blocks import blocks_for, row_for

pytestmark = pytest.mark.skipif(not installed() or interpreting(), reason='Triton is not installed, or interprets')


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Tensors without memory need no NaN."""


@pytest.mark.parametrize('wanted', EVERY if os.environ.get('MMVIM_TEST_EVERY_KERNEL') == '1' else FEW, ids=str)
def test_resources(wanted):
    import triton
    found, record = measure(wanted), read()
    assert not faults(found)
    assert set(found) <= set(LEAST_WARPS) and {'forward', 'backward', 'collect'} <= set(found)
    if triton.__version__ == record['triton']:
        assert brief(found) == record['kernels'][str(wanted)], \
            'the kernels have changed: python tests/test_ops/triton_resources.py --all'


def test_the_record():
    record = read()['kernels']
    assert set(record) == set(map(str, EVERY))
    assert all(set(kernels) >= {'forward', 'backward', 'collect'} for kernels in record.values())


def test_few_are_enough():
    """Those compiled by default take every row of the table, and have every dtype, setting and architecture."""
    rows = {(kernel, row_for(kernel, x.d_state, x.length, getattr(torch, x.dtype), x.arch))
            for kernel, x in itertools.product(TABLE, FEW)}
    assert rows == {(kernel, row) for kernel, rows in TABLE.items() for row in rows}
    for field, values in (('setting', SETTINGS), ('dtype', DTYPES), ('arch', ARCHS)):
        assert {getattr(x, field) for x in FEW} == set(values)


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
    """The reader sees what it is to see: a kernel held to few registers spills."""
    from mmvim.ops.selective_scan.triton.resources import compile_launch, read_resources
    launch = launches('vim', 1, 'float32', 1024)['segments']
    launch.options = {'maxnreg': 24}
    assert read_resources(compile_launch(launch, 90)).spilled > 0
