"""The Triton kernels on the CPU, run by test_triton.py in a process that starts with TRITON_INTERPRET=1."""

import pytest
import torch
from test_scan_properties import test_a_sequence_in_pieces_is_the_whole as pieces_are_the_whole
from triton_cases import CASES, LONG, PARTIAL, Case, errors_of

from mmvim.ops import selective_scan
from mmvim.ops.selective_scan.triton import sizes
from mmvim.ops.selective_scan.triton.blocks import blocks_for

LEFT_OUT = {
    *('33 states, two groups, reverse', 'nine maps', 'cross scan, stacked, gated'),
    *('u and B follow', 'segments, nine maps', 'segments, maps, stack'),
}


def assert_close(errors, tolerance):
    assert all(error < tolerance for error in errors.values()), errors


def parameters(cases):
    """The cases, of which ordinary runs leave out the longest ones that others resemble."""
    return [pytest.param(case, id=case.name, marks=[pytest.mark.full] * (case.name in LEFT_OUT)) for case in cases]


@pytest.mark.parametrize('case', parameters((*CASES, *PARTIAL)))
def test_against_the_definition(case):
    assert_close(errors_of(case, torch.float32), 2e-6)


@pytest.mark.parametrize('case', parameters(LONG))
def test_segments(case, many_segments):
    assert_close(errors_of(case, torch.float32), 2e-6)
    assert all(cut.segments > 1 for cut in many_segments) and len(many_segments) == 2


@pytest.mark.covering(1)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize(
    ('case', 'options'), [(CASES[7], {}), (CASES[4], {'out_dtype': torch.float32}), (PARTIAL[3], {})]
)
def test_half_precision(case, options, dtype, tolerance):
    assert_close(errors_of(case, dtype, **options), tolerance)


@pytest.mark.parametrize('d_state', [1, 3])
def test_block_sizes_of_long_rows(d_state, monkeypatch, widest):
    """The table's sizes for rows that are too long for the interpreter, and for channels that are multiples of 16."""
    monkeypatch.setattr(sizes.Sizes, 'blocks', lambda self, kernel: blocks_for(kernel, d_state, 1024, torch.half, 90))
    assert_close(errors_of(Case('wide', 1, 70, 7, d_state, groups=2, reverse=True), torch.float32), 2e-6)


def test_equal_bits_each_time():
    case = Case('twice', 1, 5, 9, 2)
    found = []
    for _ in range(2):
        leaves = [x.float().requires_grad_() for x in case.inputs()]
        out, last = case.run(leaves, 'triton')
        found.append([out, last, *torch.autograd.grad(out.square().sum() + last.sum(), leaves)])
    assert all(torch.isfinite(x).all() for x in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.full
def test_a_sequence_in_pieces_is_the_whole():
    pieces_are_the_whole('triton', torch.float32, examples=2)


def test_extremes():
    """Values that overflow float16 on the way, and delta so large that a state forgets all."""
    u = torch.full((1, 2, 9), 3e4, dtype=torch.float16).requires_grad_()
    delta = torch.tensor([[-100.0, -20, 0, 20, 100, 1000, -1000, 88, -88]] * 2, dtype=torch.float16)[None]
    ones = torch.full((1, 2, 9), 0.5, dtype=torch.float16)
    A = -torch.tensor([[1e-3, 1.0], [1e4, 1e-8]])
    out = selective_scan(u, delta, A, ones, ones, delta_softplus=True, out_dtype=torch.float32, backend='triton')
    (grad,) = torch.autograd.grad(out.sum(), u)
    assert torch.isfinite(out).all() and torch.isfinite(grad).all()
    expected = selective_scan(u.double(), delta.double(), A, ones, ones, delta_softplus=True, backend='reference')
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_compile_without_graph_breaks():
    inputs = [x.float() for x in Case('', 1, 4, 5, 2, optional=False).inputs()[:5]]

    def scan(u, delta, A, B, C):
        return selective_scan(u * 2, delta, A, B, C, delta_softplus=True, backend='triton') + 1

    torch.testing.assert_close(torch.compile(scan, fullgraph=True, backend='aot_eager')(*inputs), scan(*inputs))


def test_what_the_kernels_do_not_take_goes_to_torch():
    u, A, B = torch.randn(1, 4, 6), -torch.rand(4, 3), torch.randn(1, 3, 6)
    for arguments in (
        (u.double(), u.double(), A.double(), B, B),
        (u, u, A, A, A),
        (u[..., :0], u[..., :0], A, B[..., :0], B[..., :0]),
    ):
        torch.testing.assert_close(
            selective_scan(*arguments, backend='triton'), selective_scan(*arguments, backend='torch')
        )
