"""What the scan's kernels are made of, alone: sums over lanes, softplus, the sigmoid. Run by test_triton.py."""

import pytest
import torch
import triton
import triton.language as tl
from helpers import randn
from triton_cases import Case, errors_of

from mmvim.ops.selective_scan.triton import sizes
from mmvim.ops.selective_scan.triton.blocks import Blocks
from mmvim.ops.selective_scan.triton.memory import block_rates
from mmvim.ops.selective_scan.triton.tiles import numbers_of_sums, over_lanes, over_own_channels, sigmoid, softplus


@triton.jit
def sum_blocks(x_ptr, out_ptr, times_ptr, COUNT: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sum COUNT rows of BLOCK_D numbers; count how often each sum is stored."""
    lane = tl.arange(0, 32)
    sums = ()
    for i in tl.static_range(COUNT):
        x = tl.load(x_ptr + i * BLOCK_D + tl.arange(0, BLOCK_D))  # (BLOCK_D,)
        sums = sums + (over_own_channels(x, BLOCK_D),)
    number, stored = numbers_of_sums(lane, COUNT)
    tl.store(out_ptr + number, over_lanes(sums, lane, COUNT), mask=stored)  # (32,)
    tl.store(times_ptr + lane, tl.where(stored, number, -1))  # (32,)


@triton.jit
def evaluate(x_ptr, softplus_ptr, sigmoid_ptr, SIZE: tl.constexpr):
    """Both functions of SIZE numbers."""
    at = tl.arange(0, SIZE)
    x = tl.load(x_ptr + at)  # (SIZE,)
    tl.store(softplus_ptr + at, softplus(x))  # (SIZE,)
    tl.store(sigmoid_ptr + at, sigmoid(x))  # (SIZE,)


@pytest.mark.parametrize('channels', [32, 64, 128])
@pytest.mark.parametrize('count', [2, 4, 8, 16, 32])
def test_sums_over_lanes(count, channels):
    """Each sum once; whole numbers, so that one of a wrong lane cannot pass for rounding."""
    x = torch.randint(-1000, 1000, (count, channels), generator=torch.Generator().manual_seed(count)).float()
    out, stored = torch.full((count,), torch.nan), torch.zeros(32, dtype=torch.int32)
    sum_blocks[(1,)](x, out, stored, count, channels, num_warps=1)
    assert torch.equal(out, x.sum(1))
    assert sorted(stored[stored >= 0].tolist()) == list(range(count))


def test_softplus_and_sigmoid():
    """To the last bits of the exponential, whose argument is rounded; 0 or x where they are too small for float32."""
    x = torch.cat([torch.linspace(-40, 40, 4001), torch.linspace(-1, 1, 90), torch.tensor([-1e3, -100.0, 0, 100, 1e3])])
    x = torch.cat([x, torch.zeros(4096 - len(x))])
    found = torch.empty_like(x), torch.empty_like(x)
    evaluate[(1,)](x, *found, 4096, num_warps=4)
    y = x.double()
    expected = y.clamp(min=0) + torch.log1p(torch.exp(-y.abs())), torch.sigmoid(y)
    for value, correct in zip(found, expected, strict=True):
        assert ((value - correct).abs() <= correct * 1.2e-7 * (3 + y.abs()) + 1e-37).all()


@pytest.mark.parametrize('steps', [1, 2, 4, 8, 16])
def test_tiles_of_so_many_steps(steps, monkeypatch):
    """Whatever the table has: with a rest and without one."""
    monkeypatch.setattr(sizes.Sizes, 'blocks', lambda self, kernel: Blocks(32, steps))
    for length, dim in ((16, 32), (17, 35)):
        errors = errors_of(Case('', 1, dim, length, 2, paths=('forward', 'reverse')), torch.float32)
        assert all(error < 2e-6 for error in errors.values()), errors


@pytest.mark.parametrize(('groups', 'dim', 'block_d'), [(1, 64, 32), (2, 64, 32), (2, 70, 32), (3, 15, 32)])
def test_rates_by_block(groups, dim, block_d):
    A = randn(3, 2, dim).mT.float()  # states far apart
    rates = block_rates(A, groups, block_d)
    group_dim = dim // groups
    per_group = -(-group_dim // block_d)
    assert rates.shape == (2 + 1, groups * per_group, 2, block_d) and rates.is_contiguous()
    whole = rates.view(3, groups, per_group, 2, block_d).transpose(3, 4).reshape(3, groups, -1, 2)
    torch.testing.assert_close(whole[:, :, :group_dim].reshape(3, dim, 2).exp2(), A.exp())
    assert not whole[:, :, group_dim:].any()
