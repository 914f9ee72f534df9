"""Tensors of more than 2^31 elements, on the emulator of ``tests/ptx``: address space without the memory.

Some columns have numbers, where 32 bits would not reach them, too; the rest is zeros that no page stands behind. Of
kernels that go over all positions only the programs run that have such columns.
"""

import re
from math import prod

import pytest
import torch
from emulated import NEEDS_EMULATOR
from helpers import randn

from mmvim.ops import selective_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm_reference
from mmvim.ops.rms_norm.triton import backward_launch, forward_launch
from mmvim.ops.selective_scan.arguments import ScanArguments
from mmvim.ops.selective_scan.triton import IMPLEMENTATION

pytestmark = [NEEDS_EMULATOR, pytest.mark.slow]
HUGE = 2**26  # bytes, from which on a tensor is not made of memory


@pytest.fixture
def sparse(monkeypatch):
    """Huge tensors that the operators make are sparse, and zero."""
    from ptx.sparse import sparse_zeros

    for name in ('new_empty', 'new_zeros'):
        make = getattr(torch.Tensor, name)

        def new(like, *shape, make=make, dtype=None, **options):
            shape = tuple(shape[0]) if shape and not isinstance(shape[0], int) else shape
            dtype = dtype or like.dtype
            if prod(shape) * dtype.itemsize < HUGE:
                return make(like, shape, dtype=dtype, **options)
            return sparse_zeros(shape, dtype)

        monkeypatch.setattr(torch.Tensor, name, new)
    make_strided = torch.empty_strided  # which plans of launches call

    def strided(shape, stride, *, dtype=None, device=None, **options):
        span = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if torch.device(device or 'cpu').type == 'meta' or span * (dtype or torch.float32).itemsize < HUGE:
            return make_strided(shape, stride, dtype=dtype, device=device, **options)
        return sparse_zeros((span,), dtype).as_strided(shape, stride)

    monkeypatch.setattr(torch, 'empty_strided', strided)
    zero = torch.Tensor.zero_
    monkeypatch.setattr(torch.Tensor, 'zero_', lambda x: x if x.nbytes >= HUGE else zero(x))
    return sparse_zeros


def place(columns, positions, length, sparse):
    """A tensor (..., D, length), channels contiguous, that has columns (..., D, n) at positions."""
    x = sparse((*columns.shape[:-2], length, columns.shape[-2]), columns.dtype).mT
    x[..., positions] = columns
    return x


def relative(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def test_scan_over_huge_tensors(emulate, sparse):
    """Two partial paths of few steps over 2^31 numbers a batch element, with sums and a gate; all gradients."""
    batch, dim, d_state = 2, 40, 2
    length = 2**31 // dim + 1000
    steps = torch.tensor(
        [[length - 1, 3, length - 20, -1, length - 2, 2**30 // dim], [-1, length - 7, 3, 0, length - 3, -1]]
    )
    positions = steps.unique()[1:]  # ascending; the first is -1
    columns = len(positions)
    compact = torch.where(steps < 0, -1, torch.searchsorted(positions, steps.clamp(min=0)))
    half = {
        'u': randn(batch, 1, dim, columns),
        'delta': randn(batch, 2, dim, columns, seed=1),
        'B': randn(batch, 2, 1, d_state, columns, seed=2),
        'C': randn(batch, 2, 1, d_state, columns, seed=3),
        'z': randn(batch, dim, columns, seed=4),
        'dout': randn(batch, 1, dim, columns, seed=5),
    }
    half = {name: x.half() for name, x in half.items()}
    A = -(randn(2, dim, d_state, seed=6) * 0.3).exp().float()
    D, bias = randn(2, dim, seed=7).float(), randn(2, dim, seed=8).float() * 0.5

    def arguments(tensors, maps, length, *parameters):
        A, D, bias = parameters
        return ScanArguments(
            *(tensors['u'], tensors['delta'], A, tensors['B'], tensors['C'], D, tensors['z'], bias, None, maps),
            *((0, 1), (False, True), (True,) * 4, length, True, True, False, tensors['u'].dtype),
        )

    huge = {name: place(x, positions, length, sparse) for name, x in half.items()}
    assert min(x.numel() for x in huge.values()) > 2**27 and huge['u'].numel() > 2**32

    def only(count):
        """Programs of the kernels that go over positions in blocks of 8, for each of the blocks of 32 channels."""
        if count < 10_000:
            return range(count)
        blocks, rows = -(-dim // 32), -(-length // 8)
        assert count == batch * rows * blocks
        return [
            (b * rows + p) * blocks + d
            for b in range(batch)
            for p in {*(positions // 8).tolist()}
            for d in range(blocks)
        ]

    with emulate(90, races=False, only=only) as emulation, torch.no_grad():
        args = arguments(huge, steps, length, A, D, bias)
        out, last_state, saved = IMPLEMENTATION.forward(args, True)
        grads = IMPLEMENTATION.backward(args, huge['dout'].squeeze(1), None, saved)
    assert set(emulation.launches) == {
        *('scan_forward', 'merge_paths', 'scan_backward', 'gate_gradient', 'collect_projections'),
    }

    leaves = {name: x.double().requires_grad_() for name, x in half.items() if name != 'dout'}
    parameters = [x.double().requires_grad_() for x in (A, D, bias)]
    expected, states = definition(leaves, compact, *parameters)
    inputs = {**leaves, 'A': parameters[0], 'D': parameters[1], 'delta_bias': parameters[2]}
    gradients = torch.autograd.grad(expected, list(inputs.values()), half['dout'][:, 0].double())
    assert relative(out[..., positions].squeeze(1), expected) < 3e-3
    assert relative(last_state, states) < 2e-6
    for name, gradient in zip(inputs, gradients, strict=True):
        found = grads[name] if name in ('A', 'D', 'delta_bias') else grads[name][..., positions]
        assert found.shape == gradient.shape
        assert relative(found, gradient) < 3e-3, name


def definition(x, maps, A, D, bias):
    """The gated sum over paths, and their last states, for :func:`test_scan_over_huge_tensors`."""
    total, states = 0, []
    for k, backward in enumerate((False, True)):
        order = [p for p in maps[k].tolist() if p >= 0]
        order = order[::-1] if backward else order
        delta = torch.nn.functional.softplus(x['delta'][:, k] + bias[k, :, None])  # (b, D, columns)
        h, out = 0, torch.zeros_like(x['z'])
        # A padding step reads zeros: it multiplies the state by the decay of a delta of softplus(bias).
        for p in maps[k].tolist()[:: -1 if backward else 1]:
            if p < 0:
                h = h * torch.exp(torch.nn.functional.softplus(bias[k])[:, None] * A[k])
                continue
            step = delta[:, :, p, None]  # (b, D, 1)
            u = x['u'][:, 0, :, p]  # (b, D)
            h = torch.exp(step * A[k]) * h + step * u[..., None] * x['B'][:, k, 0, None, :, p]  # (b, D, N)
            y = (h * x['C'][:, k, 0, None, :, p]).sum(-1) + D[k] * u
            out = out + torch.nn.functional.one_hot(torch.tensor(p), out.shape[-1]) * y[..., None]
        total, states = total + out, [*states, h]
    return total * torch.nn.functional.silu(x['z']), torch.stack(states, dim=1)


def test_rows_far_apart(emulate, sparse):
    """Strides between steps of 2^29 elements, in a scan and a convolution."""
    gap, length = 2**29 + 16, 6

    def far(x):
        """The same numbers, (..., D, L), with their columns far apart."""
        return sparse((*x.shape[:-2], length, gap), x.dtype)[..., : x.shape[-2]].mT.copy_(x).requires_grad_()

    given = [
        randn(1, 5, length),
        randn(1, 5, length, seed=1),
        randn(1, 1, 3, length, seed=2),
        randn(1, 1, 3, length, seed=3),
    ]
    given = [x.half() for x in (*given, randn(1, 5, length, seed=4))]
    A = -torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) - 0.1
    found = []
    with emulate(90, races=False):
        for backend in ('triton', 'reference'):
            near = [x.double().requires_grad_() for x in given]
            u, delta, B, C, z = leaves = [far(x) for x in given] if backend == 'triton' else near
            a = A.to(u.dtype) if backend == 'reference' else A
            out = selective_scan(u, delta, a, B, C, None, z, None, True, backend=backend)
            assert backend != 'triton' or (length - 1) * u.stride(2) > 2**31
            found.append([out, *torch.autograd.grad((out * randn(*out.shape, seed=9)).sum(), leaves)])
        for got, expected in zip(*found, strict=True):
            assert relative(got, expected) < 3e-3

        x, weight = randn(1, 5, length).float(), randn(2, 5, 4).float()
        far_x = far(x)
        inputs = [
            (far_x.mT, weight.clone().requires_grad_()),
            (x.mT.double().requires_grad_(), weight.double().requires_grad_()),
        ]
        found = []
        for (tokens, filters), backend in zip(inputs, ('triton', 'reference'), strict=True):
            y = conv1d_silu(tokens, filters, None, (3, 0), backend=backend)
            found.append([y, *torch.autograd.grad((y * randn(*y.shape, seed=9)).sum(), (tokens, filters))])
        for got, expected in zip(*found, strict=True):
            assert relative(got, expected) < 2e-6


def test_products_of_32_bits_are_seen(emulate, sparse):
    """The control: a kernel whose offsets are cut to 32 bits reads beyond its tensors."""
    from ptx.check import Faults

    def cut(text):
        text = text.replace('\t.reg .b64', '\t.reg .b32 \t%cut<1>;\n\t.reg .b64', 1)
        return re.sub(r'(mul\.lo\.s64\s+(%rd\d+),[^;]*;)', r'\1 cvt.u32.u64 %cut0, \2; cvt.s64.s32 \2, %cut0;', text)

    x = sparse((1, 6, 2**29 + 16), torch.float16)[..., :5].mT
    A, B = -torch.ones(5, 1), torch.ones(1, 1, 6)
    with emulate(90, races=False, edit=cut), pytest.raises(Faults, match='scan_forward: out of bounds'):
        selective_scan(x, x, A, B, B, backend='triton')


def test_norm_of_huge_tensors(emulate, sparse):
    """More than 2^31 numbers: the first program and the last one of the forward pass, one of the backward pass."""
    channels = 100
    rows = 2**31 // channels + 1001
    last = slice(rows - 5, rows)
    dy, x, residual = (randn(5, channels, seed=i).float() for i in range(3))
    weight = randn(channels, seed=4).float()

    def huge(values):
        whole = sparse((rows, channels), torch.float32)
        whole[last] = values
        return whole

    with emulate(90, races=False) as emulation:
        emulation.only = lambda count: [0, count - 1]
        launch, (y, total, scale) = forward_launch(huge(x), huge(residual), weight, 1e-5, torch.float32)
        launch.run()
        leaves = [v.double().requires_grad_() for v in (x, residual, weight)]
        expected, added = add_rms_norm_reference(*leaves, 1e-5)
        assert relative(y[last], expected) < 2e-6 and relative(total[last], added) < 2e-6
        launch, (dx, _, dweight) = backward_launch(huge(dy), None, total, weight, scale, torch.float32, None)
        # Blocks of eight rows go round the programs; that of the last rows, which may lie in two.
        programs = sorted({(row // 8) % launch.programs for row in (rows - 5, rows - 1)})
        emulation.only = lambda count: programs
        dweight.zero_()
        launch.run()
    gradients = torch.autograd.grad(expected, leaves, dy.double())
    assert relative(dx[last], gradients[0]) < 2e-6
    assert relative(dweight[programs].sum(0), gradients[2]) < 2e-6
