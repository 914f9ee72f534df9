"""Directions of steps, against a walk from cell to cell."""

import itertools

import pytest
import torch
from orders_by_hand import SIZES, WHOLE, cells
from test_scan_orders import compiled, operations

from mmvim.ops import scan_paths, zigzag_scan
from mmvim.ops.scan_directions import DIRECTIONS, step_directions
from mmvim.ops.scan_paths import _cache

ZIGZAGS = tuple(path.name for path in zigzag_scan(2, 2))
# From a cell to the next one, rows downwards.
STEPS = {(0, 1): 'right', (0, -1): 'left', (-1, 0): 'up', (1, 0): 'down'}


def walk(name, H, W):
    """The direction of every step, one after the other."""
    visited = cells(name, H, W)
    found = ['start']
    for (i, j), (row, column) in itertools.pairwise(visited):
        found.append(STEPS.get((row - i, column - j), 'start'))
    return found


def named(numbers):
    return [[DIRECTIONS[number] for number in row] for row in numbers.tolist()]


@pytest.mark.parametrize(('H', 'W'), [*SIZES, (2, 1), (1, 2), (2, 2), (4, 1), (1, 5), (3, 4)])
def test_every_order_against_a_walk(H, W):
    found = step_directions(WHOLE, H, W)
    assert found.shape == (len(WHOLE), H * W) and found.dtype == torch.int64
    assert named(found) == [walk(name, H, W) for name in WHOLE]


@pytest.mark.parametrize(('H', 'W'), [(3, 5), (4, 3), (2, 2), (1, 4), (5, 1), (1, 1)])
def test_a_zigzag_never_jumps(H, W):
    """And turns as PlainMamba's four do: the first and the third begin at the top left, the others end there."""
    found = step_directions(ZIGZAGS, H, W)
    assert not found[:, 0].any() and found[:, 1:].all()
    turns = [{4}, {3}, {1}, {2}]  # down, up, right, left
    for directions, turn, along in zip(found, turns, (W, W, H, H), strict=True):
        between = directions[along::along]
        assert set(between.tolist()) <= turn and len(between) == H * W // along - 1


def test_on_a_small_map_by_hand():
    right, left, up, down = 1, 2, 3, 4
    assert step_directions(ZIGZAGS, 3, 2).tolist() == [
        [0, right, down, left, down, right],
        [0, left, up, right, up, left],
        [0, down, down, right, up, up],
        [0, down, down, left, up, up],
    ]


def test_they_are_kept_like_the_maps():
    _cache.clear()
    first = step_directions(ZIGZAGS, 3, 5)
    assert step_directions(list(ZIGZAGS), 3, 5) is first
    assert step_directions(ZIGZAGS, 5, 3) is not first and step_directions(ZIGZAGS[:2], 3, 5) is not first
    with torch.inference_mode():
        made = step_directions(ZIGZAGS, 7, 5)
    assert not made.is_inference()
    meta = step_directions(ZIGZAGS, 3, 5, 'meta')
    assert meta.is_meta and step_directions(ZIGZAGS, 3, 5) is first


def test_paths_with_padding_have_none():
    assert step_directions(('window2_padded',), 4, 2).shape == (1, 8)  # nothing to pad here
    with pytest.raises(ValueError, match=r"scan path 'window2_padded' has steps outside of the map"):
        step_directions(('row', 'window2_padded'), 3, 5)
    with pytest.raises(ValueError, match='unknown scan path'):
        step_directions(('snake',), 3, 5)


class Directions(torch.nn.Module):
    def forward(self, x):
        return step_directions(ZIGZAGS, *x.shape, device=x.device)


def check(module, sizes=SIZES):
    for H, W in sizes:
        assert named(module(torch.zeros(H, W))) == [walk(name, H, W) for name in ZIGZAGS], (H, W)


@pytest.mark.parametrize('strict', [False, True])
def test_exported_for_every_size(strict):
    dynamic = {0: torch.export.Dim('H', min=1), 1: torch.export.Dim('W', min=1)}
    program = torch.export.export(Directions(), (torch.zeros(5, 7),), dynamic_shapes=(dynamic,), strict=strict)
    assert not program.constants and not program.state_dict
    check(program.module())


def test_compiled_for_every_size():
    before = dict(_cache)
    module, graphs = compiled(Directions(), dynamic=True)
    check(module, SIZES[3:])  # PyTorch compiles anew for a side of 1
    assert len(graphs) == 1 and operations(graphs[0].graph)
    assert all(_cache.get(key) is value for key, value in before.items())


def test_made_on_their_device():
    """On a fake GPU, for which no GPU is needed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert step_directions(ZIGZAGS, 5, 7, device='cuda').device.type == 'cuda'
        assert scan_paths(ZIGZAGS, 5, 7, device='cuda')[0].index.device.type == 'cuda'
