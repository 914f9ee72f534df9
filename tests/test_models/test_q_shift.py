"""The shift of tokens by a cell, and mixes with it: against loops, and without a copy."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.models.layers.q_shift import q_shift, shift_and_mix

GRIDS = [(3, 5), (4, 3), (2, 2), (1, 4), (5, 1), (1, 1)]
STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # left, right, up, down


def shift_slowly(x, grid):
    """Cell by cell, quarter by quarter."""
    H, W = grid
    cells, quarter = x.unflatten(1, grid), x.shape[-1] // 4
    rows = []
    for i in range(H):
        for j in range(W):
            parts = []
            for index, (down, right) in enumerate(STEPS):
                there = (i + down, j + right)
                inside = 0 <= there[0] < H and 0 <= there[1] < W
                given = cells[:, there[0], there[1]] if inside else torch.zeros_like(cells[:, 0, 0])
                parts.append(given[:, index * quarter : (index + 1) * quarter])
            rows.append(torch.cat([*parts, cells[:, i, j, 4 * quarter :]], dim=-1))
    return torch.stack(rows, dim=1)


def with_neighbours(x, grid, mix):
    return x * mix + shift_slowly(x, grid) * (1 - mix)


def gradients(function, x, parameters):
    x = x.clone().requires_grad_()
    y = function(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *parameters], materialize_grads=True)]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('channels', [8, 10, 3])
def test_the_shift_against_loops(channels, grid):
    torch.manual_seed(0)
    x = torch.randn(2, grid[0] * grid[1], channels, dtype=torch.float64)
    assert torch.equal(q_shift(x, grid), shift_slowly(x, grid))
    mixes = [torch.rand(channels, dtype=torch.float64).requires_grad_() for _ in range(3)]
    found = gradients(lambda x: torch.cat(shift_and_mix(x, grid, *mixes), -1), x, mixes)
    expected = gradients(lambda x: torch.cat([with_neighbours(x, grid, mix) for mix in mixes], -1), x, mixes)
    assert_equal(found, expected)


def test_rows_are_not_columns():
    """The control: the loops would see a map that is read with its sides swapped, and two quarters swapped."""
    x = torch.randn(1, 15, 8)
    assert not torch.equal(q_shift(x, (5, 3)), shift_slowly(x, (3, 5)))
    swapped = q_shift(x[..., [2, 3, 0, 1, 4, 5, 6, 7]], (3, 5))[..., [2, 3, 0, 1, 4, 5, 6, 7]]
    assert not torch.equal(swapped, shift_slowly(x, (3, 5)))


class Made(TorchDispatchMode):
    """Notes what makes a tensor of memory of its own, and how large."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in (*args, *(kwargs or {}).values()) if torch.is_tensor(x)}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(x) and x.untyped_storage().data_ptr() not in known:
                self.seen.append((func.overloadpacket.__name__, x.numel()))
        return result


def made_by(run, x):
    with Made() as made:
        run(x)
    return [(name, size) for name, size in made.seen if size >= x.numel() // 4]


def test_no_shifted_copy_is_made():
    """Each mix is one tensor, and nothing else as large as a quarter of the map is made or kept for the gradients."""
    x, mixes = torch.randn(2, 35, 16, requires_grad=True), [torch.rand(16) for _ in range(3)]
    assert made_by(lambda x: shift_and_mix(x, (5, 7), *mixes), x) == [('new_empty', x.numel())] * 3
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y) or y, lambda y: y):
        shift_and_mix(x, (5, 7), *mixes)
    assert {y.untyped_storage().data_ptr() for y in kept if y.numel() == x.numel()} == {x.untyped_storage().data_ptr()}
    # The control: what the definition makes beside its three results
    assert len(made_by(lambda x: [torch.lerp(q_shift(x, (5, 7)), x, mix) for mix in mixes], x)) > 6


def test_tokens_must_fill_the_grid():
    with pytest.raises(ValueError, match='15 tokens do not fill a grid of 4 x 4'):
        shift_and_mix(torch.zeros(1, 15, 8), (4, 4), torch.ones(8))
    with pytest.raises(ValueError, match='15 tokens do not fill a grid of 4 x 4'):
        q_shift(torch.zeros(1, 15, 8), (4, 4))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_wider_dtype_is_kept(dtype):
    (y,) = shift_and_mix(torch.randn(1, 15, 8, dtype=dtype), (3, 5), torch.rand(8))
    assert y.dtype == torch.float32
    (y,) = shift_and_mix(torch.randn(1, 15, 8, dtype=dtype), (3, 5), torch.rand(8, dtype=dtype))
    assert y.dtype == dtype
