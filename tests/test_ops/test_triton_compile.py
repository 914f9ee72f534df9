"""What the Triton kernels take of a GPU, from compiling them for it here: no spills in loops, the recorded resources.

A few specialisations by default, each row of the table of block sizes among them; all of them, in about half an hour
of an idle core, with MMVIM_TEST_EVERY_KERNEL=1. ``triton_resources.py`` has them and writes the record.
"""

import itertools
import os
from dataclasses import replace

import pytest
import torch
from triton_resources import (
    CALLS,
    DTYPES,
    EVERY,
    FEW,
    LEAST_WARPS,
    SERVERS,
    SETTINGS,
    WKVS,
    brief,
    build_launches,
    faults,
    measure,
    read,
    spills_in_loops,
)

from mmvim.ops.selective_scan.arguments import single_path
from mmvim.ops.selective_scan.triton import sizes
from mmvim.ops.selective_scan.triton.block_table import TABLE, Row
from mmvim.ops.selective_scan.triton.blocks import CHUNK, Blocks, blocks_for, fit_blocks, row_for
from mmvim.ops.selective_scan.triton.launches import can_run
from mmvim.ops.selective_scan.triton.sizes import Sizes
from mmvim.ops.triton_host.device import installed, interpreting

pytestmark = pytest.mark.skipif(not installed() or interpreting(), reason='Triton is not installed, or interprets')


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Tensors without memory need no NaN."""


def expected_kernels(wanted):
    if wanted.setting in CALLS:
        return {'forward', 'backward', 'collect'}
    if wanted.setting in WKVS:
        return {'wkv forward', 'wkv backward'}
    return (
        {'norm forward', 'norm backward'}
        if wanted.setting == 'norm'
        else {'conv forward', 'conv backward', 'conv transposed'}
    )


@pytest.mark.slow
@pytest.mark.parametrize('wanted', EVERY if os.environ.get('MMVIM_TEST_EVERY_KERNEL') == '1' else FEW, ids=str)
def test_resources(wanted):
    import triton

    found, record = measure(wanted), read()
    assert not faults(found)
    assert expected_kernels(wanted) <= set(found) <= set(LEAST_WARPS)
    if triton.__version__ == record['triton']:
        assert brief(found) == record['kernels'][str(wanted)], (
            'the kernels have changed: python tests/test_ops/triton_resources.py --all'
        )


def test_the_record():
    record = read()['kernels']
    assert len(set(EVERY)) == len(EVERY) and set(FEW) <= set(EVERY)
    assert set(record) == set(map(str, EVERY))
    assert all(set(record[str(wanted)]) >= expected_kernels(wanted) for wanted in EVERY)
    assert {kernel for kernels in record.values() for kernel in kernels} == set(LEAST_WARPS)


def test_few_are_enough():
    """Those compiled by default take every row of the table, and have every dtype, setting and architecture."""
    rows = {
        (kernel, row_for(kernel, x.number, x.length, getattr(torch, x.dtype), x.arch))
        for kernel, x in itertools.product(TABLE, FEW)
        if x.setting in CALLS
    }
    assert rows == {(kernel, row) for kernel, rows in TABLE.items() for row in rows}
    for field, values in (('setting', SETTINGS), ('dtype', DTYPES), ('arch', SERVERS)):
        assert {getattr(x, field) for x in FEW} >= set(values)


@pytest.mark.parametrize('kernel', ['forward', 'backward', 'segments'])
def test_the_table_has_every_state_and_length(kernel):
    for d_state, length, dtype, arch in itertools.product(
        (1, 2, 17, 64), (1, 100_000), (torch.float16, torch.float32), (75, 90, 120)
    ):
        blocks = blocks_for(kernel, d_state, length, dtype, arch)
        assert blocks.warps == 1 and CHUNK % blocks.steps == 0
        assert blocks.block_d & (blocks.block_d - 1) == 0
    with pytest.raises(ValueError, match='no block sizes'):
        blocks_for(kernel, 65, 10, torch.float32, 90)


def test_rows_of_an_architecture(monkeypatch):
    """Of the rows that hold the first is taken; 86 is that architecture alone, 80 all of 8.x."""
    rows = (
        Row(8, 383, None, None, 32, 2),
        Row(8, None, 'half', 86, 64, 4),
        Row(8, None, None, 80, 64, 2),
        Row(64, None, None, 90, 128, 8),
        Row(64, None, None, None, 64, 8),
    )
    monkeypatch.setitem(TABLE, 'forward', rows)
    half, full = torch.float16, torch.float32
    for arch, dtype, d_state, length, number in (
        (86, half, 8, 384, 1),
        (86, half, 8, 383, 0),
        (86, full, 8, 384, 2),
        (89, half, 8, 384, 2),
        (80, half, 1, 384, 2),
        (86, half, 9, 384, 4),
        (90, half, 8, 384, 3),
        (100, half, 8, 384, 4),
    ):
        assert row_for('forward', d_state, length, dtype, arch) == rows[number], (arch, dtype, d_state, length)


def test_short_rows_have_narrow_blocks_everywhere():
    for arch, dtype in itertools.product((80, 86, 90, 120), (torch.float16, torch.float32)):
        assert blocks_for('forward', 1, 383, dtype, arch).block_d == 64


def test_blocks_fit_the_channels():
    blocks = Blocks(128, 4, registers=255)
    assert fit_blocks(blocks, 'backward', 384, 384) == blocks
    assert fit_blocks(blocks, 'backward', 392, 392) == Blocks(64, 2, registers=255)
    assert fit_blocks(blocks, 'backward', 384, 384, partial=True) == Blocks(64, 2, registers=255)
    assert fit_blocks(blocks, 'backward', 384, 384, whole=False) == Blocks(64, 4, registers=255)
    assert fit_blocks(blocks, 'forward', 384, 384, whole=False) == blocks
    assert fit_blocks(Blocks(64, 4, registers=192), 'backward', 384, 384, partial=True) == Blocks(64, 4, registers=192)
    assert fit_blocks(blocks, 'forward', 392, 50) == Blocks(64, 4, registers=255)
    assert fit_blocks(blocks, 'forward', 8, 8) == Blocks(32, 4, registers=255)
    assert fit_blocks(Blocks(64, 8), 'segments', 384, 384, partial=True) == Blocks(64, 4)
    assert fit_blocks(Blocks(64, 8), 'segments', 384, 384) == Blocks(64, 8)


@pytest.mark.parametrize(
    ('setting', 'd_state', 'dtype', 'length', 'arch', 'block'),
    [
        ('vim', 16, 'float16', 196, 90, (128, 4)),
        ('cross', 16, 'bfloat16', 1024, 90, (128, 4)),
        ('vim', 16, 'float16', 1024, 100, (64, 4)),
        ('vim', 16, 'float32', 1024, 90, (64, 4)),
        ('vim', 17, 'float16', 1024, 90, (64, 4)),
        ('vim', 16, 'float16', 197, 90, (64, 4)),  # with a class token
        ('ragged', 16, 'float16', 1024, 90, (64, 4)),
        ('drop-in', 16, 'float16', 1024, 90, (64, 4)),  # groups of 192 channels
        ('gated', 16, 'float16', 1024, 90, (64, 4)),  # a first state
        ('windows', 16, 'float16', 1024, 90, (64, 2)),
        ('mambavision', 16, 'float16', 1024, 90, (64, 2)),
    ],
    ids=str,
)
def test_128_channels_only_where_nothing_spills(setting, d_state, dtype, length, arch, block, monkeypatch):
    monkeypatch.setattr(sizes, 'architecture', lambda device: arch)
    arguments = build_launches(setting, d_state, dtype, length)['backward'].arguments
    assert (arguments['BLOCK_D'], arguments['STEPS']) == block


@pytest.mark.slow
@pytest.mark.parametrize(('d_state', 'dtype'), [(1, 'float32'), (16, 'float16')])
def test_narrow_blocks_spill_nothing(d_state, dtype, monkeypatch):
    """The narrowest blocks that the model of time may choose."""
    from mmvim.ops.triton_host.resources import compile_launch, read_resources

    table = Sizes.blocks
    monkeypatch.setattr(Sizes, 'blocks', lambda self, kernel: replace(table(self, kernel), block_d=32))
    found = build_launches('vim', d_state, dtype, 1024)
    for name in ('forward', 'backward', 'segments', 'segments, adjoint'):
        assert found[name].arguments['BLOCK_D'] == 32
        assert read_resources(compile_launch(found[name], 90)).spilled == 0


@pytest.mark.parametrize(
    ('paths', 'maps', 'fit'),
    [(10, 7, True), (21, 7, True), (22, 7, False), (9, 9, True), (16, 15, True), (17, 15, False), (16, 16, False)],
)
def test_how_many_paths_and_maps_fit(paths, maps, fit):
    """The numbers of the maps share one signed integer, and are found in it again."""
    x = torch.zeros(1, 1, 2)
    args = single_path(x, x, torch.zeros(1, 1), x, x, None, None, None, None, False, False, None)
    args = args._replace(map_ids=(-1, *(maps - 1 - k % maps for k in range(paths - 2, -1, -1))))
    assert max(args.map_ids) == maps - 1 and len(args.map_ids) == paths
    assert can_run(args) == fit
    if fit:
        found = Sizes(args, torch.device('cpu'))
        assert -(2**63) <= found.map_ids < 2**63
        found = [(found.map_ids >> (found.map_bits * k)) % 2**found.map_bits - 1 for k in range(paths)]
        assert tuple(found) == args.map_ids


@pytest.mark.slow
def test_reading_a_spill():
    """The readers see what they are to see: a kernel held to few registers spills, in its loops."""
    from mmvim.ops.triton_host.resources import compile_launch, read_resources

    launch = build_launches('vim', 1, 'float32', 1024)['backward']
    launch.options = {'maxnreg': 64}
    compiled = compile_launch(launch, 90)
    assert read_resources(compiled).spilled > 0 and spills_in_loops(compiled)
