"""Which tensors the Triton backends copy: none that lies as the kernels read it, and no other one twice."""

import pytest
import torch
from emulated import NEEDS_EMULATOR
from helpers import randn

from mmvim.ops import bi_wkv, selective_scan, selective_scan_paths
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm
from mmvim.ops.triton_host.launch import Launch, Prepared

pytestmark = NEEDS_EMULATOR
B, L, D, N = 2, 6, 5, 3


class Counter:
    """Keeps the shape of each tensor that is filled from another one while a block runs."""

    def __enter__(self):
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)
        self.profile.__enter__()
        return self

    def __exit__(self, *error):
        self.profile.__exit__(*error)
        events = [event for event in self.profile.events() if event.name == 'aten::copy_']
        self.shapes = [tuple(event.input_shapes[0]) for event in events]


@pytest.fixture(autouse=True)
def unlaunched(emulate, monkeypatch):
    """Triton's backends take tensors on the CPU; what they would launch is left out, for what they copy is asked."""
    monkeypatch.setattr(Launch, 'run', lambda launch: None)
    monkeypatch.setattr(Prepared, 'start', lambda launch, values: None)
    with emulate(90):
        yield


def tokens(*shape, fast=True):
    """Random numbers (..., D, L), with the channels or, unless ``fast``, the tokens side by side."""
    x = randn(*shape).float()
    return (x.mT.contiguous().mT if fast else x).requires_grad_()


def vector(*shape):
    return randn(*shape).float().requires_grad_()


def scan(fast):
    u, delta, z = (tokens(B, D, L, fast=fast) for _ in range(3))
    projections = [tokens(B, N, L, fast=fast) for _ in range(2)]
    A, skip, bias = -torch.rand(D, N), vector(D), vector(D)

    def run():
        return selective_scan(u, delta, A, *projections, skip, z, bias, True, backend='triton')

    return run, [u, delta, *projections, z]


def paths(fast):
    u, z = tokens(B, D, L, fast=fast), tokens(B, D, L, fast=fast)
    delta, B_, C_ = (tokens(B, 2, n, L, fast=fast) for n in (D, N, N))
    A = -torch.rand(2, D, N)

    def run():
        return selective_scan_paths(u, delta, A, B_, C_, None, z, paths=('forward', 'reverse'), backend='triton')

    return run, [u, delta, B_, C_, z]


def convolution(fast):
    x, weight = tokens(B, D, L, fast=fast), vector(2, D, 4)
    return lambda: conv1d_silu(x.mT, weight, None, [3, 0], 'triton'), [x]


def norm(fast):
    x, weight = tokens(B, D, L, fast=fast), vector(D)
    return lambda: add_rms_norm(x.mT, None, weight, backend='triton')[0], [x]


def norm_of_a_sum(fast):
    x, residual, weight = tokens(B, D, L, fast=fast), tokens(B, D, L, fast=fast), vector(D)
    return lambda: add_rms_norm(x.mT, residual.mT, weight, backend='triton')[0], [x, residual]


def wkv(fast):
    decay, bonus = vector(D), vector(D)
    k, v = tokens(B, D, L, fast=fast), tokens(B, D, L, fast=fast)
    return lambda: bi_wkv(decay, bonus, k.mT, v.mT, backend='triton'), [k, v]


OPS = pytest.mark.parametrize('op', [scan, paths, convolution, norm, norm_of_a_sum, wkv])
# A, which the scan's backward pass reads as rates, in blocks of 32 channels here: a number to multiply by, A with the
# channels that the last block lacks, and the product.
SMALL = {(), *((paths, 1, D, N) for paths in (1, 2)), *((paths, 1, N, 32) for paths in (1, 2))}


def count(run, inputs):
    """The shapes of what is copied forward, and then backward, with a gradient laid out as the output."""
    with Counter() as forward:
        out = run()
    grad = torch.empty_like(out).fill_(1)
    assert grad.stride() == out.stride()
    with Counter() as backward:
        torch.autograd.grad(out, inputs, grad)
    return forward.shapes, backward.shapes


@OPS
def test_nothing_is_copied_that_lies_well(op):
    forward, backward = count(*op(True))
    assert not forward and set(backward) <= SMALL


@OPS
def test_what_lies_otherwise_is_copied_once(op):
    run, inputs = op(False)
    forward, backward = count(run, inputs)
    assert len(forward) == len(inputs) and set(backward) <= SMALL


@pytest.mark.parametrize('part', [0, 1])
def test_parts_of_wider_tensors_are_read_where_they_lie(part):
    wide = [randn(B, L, 2 * D).float().requires_grad_() for _ in range(3)]
    x, k, v = (t.chunk(2, dim=-1)[part] for t in wide)
    own, weight, A, projection = vector(D), vector(1, D, 4), -torch.rand(D, N), tokens(B, N, L)
    with Counter() as counter:
        conv1d_silu(x, weight, None, [3], 'triton')
        bi_wkv(own, own, k, v, backend='triton')
        selective_scan(x.mT, k.mT, A, projection, projection, backend='triton')
    assert not counter.shapes


@OPS
def test_a_gradient_that_lies_otherwise_is_copied_once(op):
    run, inputs = op(True)
    grad = torch.ones(()).expand(run().shape)
    torch.autograd.grad(run(), inputs, grad)  # a plan is made of tensors without memory, whose copies would count
    out = run()
    with Counter() as counter:
        torch.autograd.grad(out, inputs, grad)
    assert len([shape for shape in counter.shapes if shape not in SMALL]) == 1
