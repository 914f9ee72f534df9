"""Positions are resized by matrix products that compute what PyTorch's interpolation does, and trace at any size."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.models import Vim
from mmvim.models.layers.pos_embed import cubic, fit_positions, linear, resize_grid, resize_matrix

GRIDS = pytest.mark.parametrize(
    ('src', 'dst'),
    [
        ((14, 14), (32, 32)),
        ((14, 14), (20, 35)),
        ((32, 20), (7, 64)),
        ((14, 14), (13, 1)),
        ((1, 2), (5, 9)),
        ((27, 14), (27, 13)),
    ],
)


def interpolated(grid, src, dst):
    maps = grid.reshape(1, *src, -1).permute(0, 3, 1, 2)
    return F.interpolate(maps, size=dst, mode='bicubic', align_corners=False).flatten(2).transpose(1, 2)


@GRIDS
def test_bicubic_weights_are_pytorchs(src, dst):
    """Float32 is held to the float64 result: PyTorch's own float32 positions are a few 1e-6 off on large grids."""
    torch.manual_seed(0)
    grid = torch.randn(1, src[0] * src[1], 8, dtype=torch.float64, requires_grad=True)
    want, got = interpolated(grid, src, dst), resize_grid(grid, src, dst)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    along = torch.randn_like(want)
    gradients = [torch.autograd.grad(y, grid, along)[0] for y in (got, want)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    single = resize_grid(grid.float(), src, dst)
    assert single.dtype == torch.float32
    assert (single - want).abs().max() <= 1e-6 * want.abs().max()
    half = resize_grid(grid.bfloat16(), src, dst)
    assert torch.equal(half, resize_grid(grid.bfloat16().float(), src, dst).bfloat16()), 'half is resized in float32'


@pytest.mark.parametrize(('old', 'new'), [(16, 32), (16, 8), (14, 20), (9, 1), (1, 4), (5, 5)])
@pytest.mark.parametrize(('kernel', 'mode'), [(cubic, 'bicubic'), (linear, 'bilinear')])
def test_a_matrix_is_the_interpolation_of_one_axis(kernel, mode, old, new):
    basis = torch.eye(old, dtype=torch.float64).reshape(old, 1, old, 1)
    want = F.interpolate(basis, size=(new, 1), mode=mode, align_corners=False).reshape(old, new).T
    torch.testing.assert_close(resize_matrix(old, new, kernel, torch.float64), want, rtol=0, atol=1e-12)


def test_the_same_grid_is_returned_as_it_is():
    grid = torch.randn(1, 15, 8)
    assert resize_grid(grid, (3, 5), (3, 5)) is grid
    assert fit_positions(grid, (2, 7), (2, 7), (7,), (7,)) is grid
    assert torch.equal(resize_matrix(7, 7), torch.eye(7))


def test_class_positions_move_and_vanish():
    positions = torch.arange(5.0).reshape(1, 5, 1)
    moved = fit_positions(positions, (2, 2), (2, 3), (2,), (3,))
    assert moved.shape == (1, 7, 1) and moved[0, 3] == 2
    assert fit_positions(positions, (2, 2), (2, 2), (2,), ()).flatten().tolist() == [0, 1, 3, 4]
    assert fit_positions(positions, (2, 2), (2, 2), (2,), (0,)).flatten().tolist() == [2, 0, 1, 3, 4]


def test_autocast_does_not_touch_positions():
    grid = torch.randn(1, 196, 8, requires_grad=True)
    want = resize_grid(grid, (14, 14), (32, 32))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = resize_grid(grid, (14, 14), (32, 32))
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_nothing_but_shapes_on_meta():
    assert resize_grid(torch.empty(1, 196, 8, device='meta'), (14, 14), (3, 5)).shape == (1, 15, 8)


class Operators(TorchDispatchMode):
    """Names of the operators that run, those of a backward pass included."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_deterministic_mode_meets_no_interpolation():
    model = Vim({'embed_dims': 16, 'depth': 1}, img_size=64, cls_token='middle').train()
    torch.use_deterministic_algorithms(True)
    try:
        with Operators() as seen:
            model(torch.randn(1, 3, 96, 160))[0].sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert model.pos_embed.grad.any() and any('mm' in name for name in seen.names)
    assert not [name for name in seen.names if 'upsample' in name or 'interpolate' in name]
