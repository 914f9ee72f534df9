"""Scan orders as index maps: each against a slow construction of its own, on maps that are not square."""

import itertools

import pytest
import torch
from helpers import DEFINED
from orders_by_hand import NAMES, SIZES, WHOLE, raster

from mmvim.ops import ScanPath, cross_scan, scan_paths, selective_scan_paths, zigzag_scan
from mmvim.ops.scan_paths import _MAX_CACHED, _cache


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(('H', 'W'), SIZES)
def test_order(name, H, W):
    (path,) = scan_paths(name, H, W)
    assert path.order().tolist() == raster(name, H, W)
    assert path.length == H * W and path.name == name and path.steps == len(raster(name, H, W))
    assert path.partial == (sorted(raster(name, H, W)) != list(range(H * W)))
    steps = {position: step for step, position in enumerate(raster(name, H, W))}
    assert path.inverse().tolist() == [steps.get(position, -1) for position in range(H * W)]
    x = torch.arange(1.0, H * W + 1)
    assert path.read(x, filler=-3.0).tolist() == [-3.0 if p < 0 else p + 1.0 for p in raster(name, H, W)]
    assert path.reversed().order().tolist() == path.order().tolist()[::-1]
    assert path.reversed().reversed().name == name


@pytest.mark.parametrize(('H', 'W'), [*itertools.product(range(1, 8), repeat=2), (8, 8), (13, 6), (5, 17), (16, 32)])
def test_hilbert(H, W):
    """Every cell once; each step goes to a neighbour, but for one diagonal step at most."""
    order = [(p // W, p % W) for p in scan_paths('hilbert', H, W)[0].order().tolist()]
    assert sorted(order) == list(itertools.product(range(H), range(W)))
    moves = [(abs(a - c), abs(b - d)) for (a, b), (c, d) in itertools.pairwise(order)]
    assert {*moves} <= {(0, 1), (1, 0), (1, 1)} and moves.count((1, 1)) <= 1
    if H == W == 8:  # a quarter is filled before the next begins
        assert [{(i // 4, j // 4) for i, j in order[n : n + 16]} for n in range(0, 64, 16)] == [
            {(0, 0)},
            {(1, 0)},
            {(1, 1)},
            {(0, 1)},
        ]


@pytest.mark.parametrize('suffix', ['', '_col'])
def test_windows_of_every_size_on_maps_of_every_size(suffix):
    """Window by window and cell by cell: those that the border cuts, and those larger than the map."""
    for H, W, w in itertools.product(range(1, 9), range(1, 9), range(1, 11)):
        order = []
        rows, columns = range(0, H, w), range(0, W, w)
        for top, left in itertools.product(rows, columns) if not suffix else ((r, c) for c in columns for r in rows):
            i, j = range(top, min(top + w, H)), range(left, min(left + w, W))
            order += [a * W + b for a in i for b in j] if not suffix else [a * W + b for b in j for a in i]
        assert scan_paths(f'window{w}{suffix}', H, W)[0].order().tolist() == order, (H, W, w)


@pytest.mark.covering(1)
@pytest.mark.parametrize('name', WHOLE)
@pytest.mark.parametrize(('H', 'W'), [(4, 5), (3, 4), (1, 6), (5, 1)])
@DEFINED
def test_a_scan_walks_the_order(name, H, W, backend, dtype):
    (path,) = scan_paths((name,), H, W)
    length = H * W
    one_hot = torch.eye(length, dtype=dtype)[None]  # channel d is 1 at position d
    decay, ones = torch.full((length, 1), -0.1, dtype=dtype), torch.ones(1, 1, length, dtype=dtype)
    out = selective_scan_paths(one_hot, torch.ones_like(one_hot), decay, ones, ones, paths=[path], backend=backend)
    steps = torch.empty(length, dtype=torch.long)
    steps[torch.tensor(raster(name, H, W))] = torch.arange(length)
    # What was put in at p is seen at q if and only if q comes later, and decays with the number of steps between.
    gap = steps[None, :] - steps[:, None]
    expected = torch.where(gap >= 0, torch.exp(-0.1 * gap.double()), 0.0).to(dtype)
    torch.testing.assert_close(out[0], expected)


@pytest.mark.parametrize(('H', 'W'), [*SIZES, (4, 5), (3, 4)])
def test_plain_mambas_zigzags(H, W):
    """o1 to o4 walked step by step as the paper's figure has them."""
    starts = [(0, 0), (H - 1, W - 1 if H % 2 else 0), (0, 0), (H - 1 if W % 2 else 0, W - 1)]
    for path, start, along_rows in zip(zigzag_scan(H, W), starts, (True, True, False, False), strict=True):
        order = [(p // W, p % W) for p in path.order().tolist()]
        assert order[0] == start
        assert sorted(path.order().tolist()) == list(range(H * W))
        leading = [cell[0] if along_rows else cell[1] for cell in order]
        assert leading == sorted(leading, reverse=leading[0] > leading[-1])
        assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in itertools.pairwise(order))


def test_cross_scan_is_in_vmambas_order():
    assert [path.name for path in cross_scan(3, 5)] == ['row', 'col', 'row_reverse', 'col_reverse']


def test_a_path_and_its_reverse_share_their_map_and_rows_have_none():
    row, col, row_reverse, col_reverse = cross_scan(3, 5)
    assert row.index is None and row_reverse.index is None
    assert col.index is col_reverse.index and col.index is cross_scan(3, 5)[1].index
    assert col.key == col_reverse.key == col.reversed().key == ('col', 3, 5)


def test_the_cache_is_bounded():
    for W in range(2, _MAX_CACHED + 20):
        scan_paths('col', 3, W)
    assert len(_cache) <= _MAX_CACHED


def test_a_map_made_under_inference_mode_serves_training():
    with torch.inference_mode():
        (path,) = scan_paths('col', 11, 13)
    assert not path.index.is_inference()


def test_a_traced_map_is_not_kept():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        scan_paths('zigzag_row', 9, 17)
    assert type(scan_paths('zigzag_row', 9, 17)[0].index) is torch.Tensor
    scan_paths('zigzag_row', 9, 17)[0].order().sum().item()


def test_maps_of_ones_own():
    path = ScanPath.from_index(torch.tensor([2, 0, 1]))
    assert path.order().tolist() == [2, 0, 1] and path.reversed().order().tolist() == [1, 0, 2]
    assert path.key is None
    for index, error, words in (
        (torch.tensor([0, 0, 1]), ValueError, 'exactly once'),
        (torch.tensor([0, 1, 3]), ValueError, 'exactly once'),
        (torch.tensor([[0, 1]]), ValueError, r'\(L,\)'),
        (torch.tensor([0.0, 1.0]), TypeError, 'int64'),
        ([0, 1], TypeError, 'int64'),
    ):
        with pytest.raises(error, match=words):
            ScanPath.from_index(index)


def test_partial_maps_of_ones_own():
    path = ScanPath.from_index(torch.tensor([2, -1, 0]), length=4)
    assert (path.length, path.steps, path.partial, path.reversed().partial) == (4, 3, True, True)
    assert path.reversed().order().tolist() == [0, -1, 2] and path.inverse().tolist() == [2, -1, 0, -1]
    assert not ScanPath.from_index(torch.tensor([2, 1, 0]), length=3).partial
    for index in ([0, 0], [0, 4], [0, -2], []):
        with pytest.raises(ValueError, match=r'each of 0\.\.3 at most once, and -1 at padding'):
            ScanPath.from_index(torch.tensor(index, dtype=torch.int64), length=4)


@pytest.mark.parametrize(
    ('names', 'H', 'W', 'words'),
    [
        ('spiral', 3, 4, "unknown scan path 'spiral'.*row, row_reverse, .*window<w>_padded_col_reverse"),
        ('window0', 3, 4, 'window0'),
        ('window<w>', 3, 4, 'window<w>'),
        ('row', 0, 4, 'H=0'),
        ('row', 0, 3, 'H=0'),
        ('row', 3, -1, 'W=-1'),
        (('row', 'sideways'), 3, 4, 'sideways'),
        ('atrous2_5', 3, 4, r'atrous2_5: step 2 has paths 1\.\.4'),
        ('atrous2_0', 3, 4, 'atrous2_0'),
    ],
)
def test_bad_names_and_sizes(names, H, W, words):
    with pytest.raises(ValueError, match=words):
        scan_paths(names, H, W)
