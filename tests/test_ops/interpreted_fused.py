"""The fused norm and convolution on the CPU, run by test_triton.py in a process that starts with TRITON_INTERPRET=1."""

import pytest
import torch
import torch.nn.functional as F
from helpers import randn, worst_errors

from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm, add_rms_norm_reference


@pytest.mark.parametrize(('shape', 'with_residual'), [((5, 3, 12), True), ((1, 2, 40), False), ((70, 16), True)])
def test_rms_norm(shape, with_residual):
    inputs = randn(*shape), randn(*shape, seed=1) if with_residual else None, randn(shape[-1], seed=2)
    outputs = slice(None) if with_residual else slice(0, 1)
    found = worst_errors(
        lambda *x: add_rms_norm(*x, 1e-5, 'triton')[outputs],
        lambda *x: add_rms_norm_reference(*x, 1e-5)[outputs],
        inputs,
        [torch.float32] * 3,
    )
    assert max(found) < 2e-6


def test_rms_norm_with_a_wide_stream():
    inputs = randn(4, 24), randn(4, 24, seed=1), randn(24, seed=2)
    found = worst_errors(
        lambda *x: add_rms_norm(*x, 1e-5, 'triton'),
        lambda *x: add_rms_norm_reference(*x, 1e-5),
        inputs,
        [torch.float16, torch.float32, torch.float32],
    )
    assert max(found[:2]) < 2e-6 and max(found) < 1e-3  # the gradient of x is rounded to float16


def test_sum_alone_is_used():
    x, residual, weight = (randn(*s).float().requires_grad_() for s in ((3, 8), (3, 8), (8,)))
    _, total = add_rms_norm(x, residual, weight, backend='triton')
    grads = torch.autograd.grad(total.sum(), [x, residual, weight], allow_unused=True)
    assert torch.equal(grads[0], torch.ones(3, 8)) and torch.equal(grads[1], torch.ones(3, 8)) and grads[2] is None


@pytest.mark.parametrize(('left', 'taps', 'bias'), [((3, 0), 4, True), ((1,), 3, False), ((0, 1, 1), 2, True)])
@pytest.mark.parametrize('length', [1, 37])
def test_convolution(left, taps, bias, length):
    def definition(x, weight, shift=None):
        outputs = [
            F.conv1d(
                F.pad(x.mT, (n, taps - 1 - n)),
                weight[k, :, None],
                None if shift is None else shift[k],
                groups=x.shape[2],
            ).mT
            for k, n in enumerate(left)
        ]
        return (F.silu(torch.stack(outputs, dim=1)),)

    def ours(x, weight, shift=None):
        return (conv1d_silu(x, weight, shift, left, backend='triton'),)

    inputs = [randn(2, length, 70)[..., :35], randn(len(left), 35, taps), randn(len(left), 35) if bias else None]
    assert max(worst_errors(ours, definition, inputs, [torch.float32] * 3)) < 2e-6


def test_opcheck(monkeypatch):
    monkeypatch.undo()
    x, w = torch.randn(2, 5, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    arguments = (x, x.detach().requires_grad_(), w, 1e-5, torch.float32)
    torch.library.opcheck(torch.ops.mmvim.rms_norm_fwd.default, arguments)
