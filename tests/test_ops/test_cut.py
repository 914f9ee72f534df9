"""How scans are cut into programs: the model of time, and what it chooses."""

import itertools

import pytest

from mmvim.ops.selective_scan.triton import cut
from mmvim.ops.selective_scan.triton.blocks import CHUNK, MAX_STATE
from mmvim.ops.selective_scan.triton.cut import COSTS, WIDTHS, Cost, Gpu, Work

H200 = Gpu(132, 90)
# 100 instructions for 32 channels and 150 for 64; room for 16 programs with 128 registers.
COST = Cost(8, (100, 75, 60), (128, 128, 255), 200)
VIM = Work(rows=2, groups=1, group_dim=384, steps=1024, d_state=16)  # one picture of Vim-T, 512 pixels


def times(batch):
    return VIM._replace(rows=2 * batch)


@pytest.mark.parametrize(
    ('programs', 'clocks'),
    [
        (1, 300),  # one warp waits after its instructions
        (40, 300),  # and so does one on each of four schedulers of ten processors
        (41, 300),  # two on one of them: 200 instructions are less than what one waits for
        (160, 400),  # four warps a scheduler have no time to wait
        (161, 600),  # the processors are full; one program is left for another wave
        (200, 600),
        (320, 800),  # two full waves
    ],
)
def test_waves(programs, clocks):
    assert cut.clocks_of(COST, programs, 32, 1, Gpu(10)) == clocks
    assert cut.clocks_of(COST, programs, 32, 7, Gpu(10)) == 7 * clocks


def test_room():
    assert COST.room(32, H200) == 16 and COST.room(128, H200) == 8
    assert Cost(1, (1, 1, 1), (16, 16, 16), 0).room(32, H200) == 32
    assert [Gpu(1, arch).most_programs for arch in (61, 75, 86, 87, 90, 103, 121)] == [32, 16, 16, 16, 32, 32, 24]


def test_costs_between_those_counted():
    low, high = Cost(8, (100, 75, 60), (64, 80, 96), 100), Cost(16, (180, 115, 80), (128, 160, 192), 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COSTS, 'made up', (low, high))
        cut.cost_of.cache_clear()
        assert cut.cost_of('made up', 8) == low and cut.cost_of('made up', 16) == high
        assert cut.cost_of('made up', 10) == Cost(10, (120, 85, 65), (128, 160, 192), 125)
        assert cut.cost_of('made up', 3) == low and cut.cost_of('made up', 64)[1:] == high[1:]


def test_counted_costs_are_plausible():
    """Wide blocks take fewer instructions, more states more; each kernel has a row for every number of states."""
    for rows in COSTS.values():
        assert [row.d_state for row in rows] == sorted({row.d_state for row in rows})
        assert rows[0].d_state == 1 and rows[-1].d_state == MAX_STATE
        for row in rows:
            assert list(row.instructions) == sorted(row.instructions, reverse=True)
            assert min(row.registers) > 16 and max(row.registers) <= 255
        for low, high in itertools.pairwise(rows):
            assert all(a < b for a, b in zip(low.instructions, high.instructions, strict=True))


@pytest.mark.parametrize('steps', [1, 15, 16, 17, 49, 196, 1024, 97344])
def test_cuts(steps):
    found = cut.cuts_of(steps)
    assert found[0] == (1, steps)
    for segments, each in found[1:]:
        assert each % CHUNK == 0 and (segments - 1) * each < steps <= segments * each
    assert len(set(found)) == len(found)
    assert found[-1][0] == -(-steps // CHUNK)


@pytest.mark.parametrize(
    ('dim', 'widest', 'widths'),
    [(1, 128, [32]), (32, 128, [32]), (33, 128, [32, 64]), (96, 128, [32, 64, 128]), (96, 64, [32, 64])],
)
def test_widths(dim, widest, widths):
    assert cut.widths_of(VIM._replace(group_dim=dim), widest) == widths


@pytest.mark.parametrize('kernel', ['forward', 'backward'])
@pytest.mark.parametrize('batch', [1, 16, 64])
@pytest.mark.parametrize('steps', [49, 196, 1024])
def test_nothing_is_faster_than_the_choice(kernel, batch, steps):
    work = times(batch)._replace(steps=steps)
    chosen = cut.choose(kernel, work, 128, H200)
    for width in WIDTHS:
        for each in (steps, *range(CHUNK, steps, CHUNK)):
            assert chosen.clocks <= cut.model(kernel, work, width, -(-steps // each), each, H200)
    assert chosen.clocks == cut.model(kernel, work, *chosen[:3], H200)


def programs(kernel, batch, steps=1024, gpu=H200):
    work = times(batch)._replace(steps=steps)
    chosen = cut.choose(kernel, work, 128 if kernel == 'backward' else 64, gpu)
    return work.rows * chosen.segments * work.blocks(chosen.width)


def test_few_rows_are_cut_and_many_are_not():
    assert cut.choose('forward', times(1), 64, H200).segments > 8
    assert cut.choose('forward', times(128), 64, H200).segments == 1
    assert cut.choose('backward', times(1), 64, H200).width < 128
    assert programs('forward', 1, steps=49) < programs('forward', 1)


@pytest.mark.parametrize('batch', [1, 16, 32, 48, 64, 128])
def test_no_processor_is_idle_in_training(batch):
    """Vim-T at 512 pixels: two warps for each scheduler, or nearly, where three segments at least left 2.9 at 64."""
    assert programs('backward', batch) / 132 > 5.5
    assert programs('backward', batch) >= 132 * 4


def test_a_small_gpu_has_few_segments():
    assert programs('backward', 8, gpu=Gpu(20, 86)) < programs('backward', 8)


def test_depends_on_shapes_alone():
    first = cut.choose('backward', times(7), 64, H200)
    cut.choose.cache_clear()
    assert cut.choose('backward', times(7), 64, H200) == first


def test_segments_must_be_worth_their_launches():
    """A path of two chunks is over before two more kernels have started."""
    assert cut.choose('forward', Work(2, 1, 384, 2 * CHUNK, 1), 64, H200).segments == 1
