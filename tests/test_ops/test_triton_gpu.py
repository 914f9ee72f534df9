"""The Triton kernels on a GPU: ``pytest -m gpu``."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import randn, worst_errors
from triton_cases import ATROUS, CASES, CROSS, LONG, PARTIAL, Case, errors_of

from mmvim.ops import bi_wkv, selective_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm, add_rms_norm_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='PyTorch finds no GPU')]

VIM = ('forward', 'reverse')
WINDOWS = ('row', 'window7_padded', 'row_reverse', 'window7_padded_reverse')
# The scans of vision models, batch 1 to 2, with fewer channels where the definition would take too long.
MODELS = (
    Case('Vim 224', 2, 384, 197, 16, paths=VIM),
    Case('Vim 512', 1, 768, 1024, 16, paths=VIM),
    Case('Vim 1248', 1, 64, 6084, 16, paths=VIM),
    Case('MambaVision 224, level 3', 3, 160, 196, 8, optional=False),
    Case('MambaVision 224, level 4', 3, 392, 49, 8, optional=False),
    Case('MambaVision 512, level 3', 1, 96, 4096, 8),
    Case('VMamba 224, stage 1', 1, 96, 3136, 1, paths=CROSS, grid=(56, 56), shared=('u',)),
    Case('VMamba 224, stage 4', 2, 768, 49, 1, paths=CROSS, grid=(7, 7), shared=('u',)),
    Case('VMamba v0, stage 3', 1, 384, 196, 16, paths=CROSS, grid=(14, 14), shared=('u',)),
    Case('PlainMamba 512', 1, 64, 1024, 16, paths=('random',) * 4, follow=('u',), shared=('u', 'A', 'D')),
    Case('LocalVMamba 224, stage 3', 1, 192, 225, 16, paths=CROSS, grid=(15, 15), shared=('u',)),
    Case('EfficientVMamba 224, stage 1', 1, 96, 784, 16, paths=CROSS, grid=(28, 28), shared=('u',)),
    Case('windows that do not fit', 1, 384, 195, 16, paths=('window2_padded_reverse', *WINDOWS[:2]), grid=(13, 15)),
    Case('LocalMamba 512, stage 2', 1, 192, 4096, 16, paths=WINDOWS, grid=(64, 64), shared=('u',)),
    Case('EfficientVMamba 224, atrous', 1, 48, 3136, 16, paths=ATROUS, grid=(56, 56), shared=('u',), optional=False),
    Case('lattices that do not fit', 2, 192, 225, 1, paths=ATROUS, grid=(15, 15), combine='stack'),
    Case('in the order of the steps', 2, 96, 289, 8, paths=WINDOWS[1::2], grid=(17, 17), follow=()),
    Case('four groups', 2, 192, 147, 1, groups=4, optional=False),
    Case('N 64', 1, 100, 300, 64),
)
# Rows so long that the definition's loop would take minutes, few channels.
LONG_MODELS = (
    Case('Vim 1024', 1, 64, 4096, 16, paths=VIM),
    Case('MambaVision 1024, window 112', 1, 96, 12544, 8),
    Case('MambaVision-S 512, window 160', 1, 64, 25600, 8, optional=False),
    Case('VMamba 512, stage 1', 1, 32, 16384, 1, paths=CROSS, grid=(128, 128), shared=('u',)),
    Case('VMamba 1248, stage 1', 1, 32, 97344, 1, paths=CROSS, grid=(312, 312), shared=('u',)),
    Case('100 000 steps', 1, 32, 100_000, 2),
)
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', (*CASES, *PARTIAL, *LONG, *MODELS), ids=lambda case: case.name)
def test_against_the_definition(case, dtype):
    errors = errors_of(case, dtype, 'cuda')
    assert all(error < TOLERANCES[dtype] for error in errors.values()), errors


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', LONG_MODELS, ids=lambda case: case.name)
def test_long_rows(case, dtype):
    errors = errors_of(case, dtype, 'cuda', definition='torch')
    assert all(error < TOLERANCES[dtype] for error in errors.values()), errors


def test_segments(many_segments):
    case = Case('segments', 1, 40, 700, 16)
    errors = errors_of(case, torch.float32, 'cuda')
    assert all(error < 5e-5 for error in errors.values()), errors
    assert [cut.segments for cut in many_segments] == [44, 44]


@pytest.mark.parametrize('case', (MODELS[0], MODELS[2], MODELS[6], MODELS[13]), ids=lambda case: case.name)
def test_equal_bits_each_time(case):
    found = []
    for _ in range(3):
        leaves = [None if x is None else x.half().cuda().requires_grad_() for x in case.inputs()]
        out = case.run(leaves, 'triton')
        found.append([out, *torch.autograd.grad(out.float().square().sum(), [x for x in leaves if x is not None])])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_auto_takes_it_and_matches_torch():
    case = MODELS[0]
    leaves = [None if x is None else x.float().cuda() for x in case.inputs()]
    torch.testing.assert_close(case.run(leaves, None), case.run(leaves, 'torch'), rtol=1e-4, atol=1e-4)


def test_extremes_of_float16():
    u = torch.full((1, 64, 2000), 6e4, device='cuda', dtype=torch.float16).requires_grad_()
    delta = torch.linspace(-1000, 1000, 2000, device='cuda', dtype=torch.float16).expand(1, 64, -1)
    ones = torch.ones(1, 16, 2000, device='cuda', dtype=torch.float16)
    A = -torch.logspace(-6, 6, 16, device='cuda').expand(64, -1).contiguous()
    out = selective_scan(u, delta, A, ones * 1e-3, ones * 1e-3, delta_softplus=True, out_dtype=torch.float32)
    (grad,) = torch.autograd.grad((out * 1e-6).sum(), u)
    assert torch.isfinite(out).all() and torch.isfinite(grad).all()


def test_cuda_graph():
    case = Case('graph', 2, 64, 100, 16, paths=VIM)
    leaves = [None if x is None else x.float().cuda() for x in case.inputs()]
    expected = case.run(leaves, 'triton')
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        case.run(leaves, 'triton')
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.run(leaves, 'triton')
    leaves[0].mul_(2)
    doubled = case.run(leaves, 'triton')
    graph.replay()
    torch.testing.assert_close(out, doubled)
    assert not torch.equal(expected, doubled)


def test_cuda_graph_of_a_training_step():
    case = Case('graph', 2, 64, 500, 16, paths=VIM)
    leaves = [None if x is None else x.float().cuda().requires_grad_() for x in case.inputs()]
    wanted = [x for x in leaves if x is not None]

    def step():
        return torch.autograd.grad(case.run(leaves, 'triton').square().sum(), wanted)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        leaves[0].mul_(2)
    expected = step()
    graph.replay()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_memory():
    """Nothing of the size of all states is ever there."""
    case = Case('memory', 2, 384, 4096, 16, paths=VIM)
    leaves = [None if x is None else x.half().cuda().requires_grad_() for x in case.inputs()]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.run(leaves, 'triton').float().sum().backward()
    states = 4 * len(VIM) * case.batch * case.dim * case.length * case.d_state
    assert torch.cuda.max_memory_allocated() - before < 0.75 * states


def test_offsets_beyond_32_bits():
    batch, dim, length = 16, 1536, 97344
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip('needs 40 GB of memory')
    assert batch * dim * length > 2**31
    generator = torch.Generator('cuda').manual_seed(0)
    u, delta = (
        torch.empty(batch, length, dim, device='cuda', dtype=torch.float16).normal_(generator=generator).mT
        for _ in range(2)
    )
    B, C = (torch.randn(batch, length, 1, device='cuda', generator=generator).half().mT for _ in range(2))
    A = -torch.rand(dim, 1, device='cuda', generator=generator)
    with torch.no_grad():
        out = selective_scan(u, delta, A, B, C, delta_softplus=True, backend='triton')
        alone = selective_scan(u[-1:], delta[-1:], A, B[-1:], C[-1:], delta_softplus=True, backend='triton')
    torch.testing.assert_close(out[-1:], alone, rtol=1e-2, atol=1e-2)


def test_norm_and_convolution():
    generator = torch.Generator('cuda').manual_seed(0)
    x, residual = (torch.randn(3, 77, 192, device='cuda', generator=generator) for _ in range(2))
    weight = torch.randn(192, device='cuda', generator=generator)
    for a, b in zip(
        add_rms_norm(x.half(), residual, weight), add_rms_norm_reference(x.half(), residual, weight), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    filters, shifts = (torch.randn(2, 192, *n, device='cuda', generator=generator) for n in ((4,), ()))
    found = []
    for device in ('cuda', 'cpu'):
        inputs = [t.to(device).requires_grad_() for t in (x, filters, shifts)]
        y = conv1d_silu(*inputs, (3, 0))
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('boundary', ['exact', 'published'])
@pytest.mark.parametrize('shape', [(2, 196, 192), (1, 1024, 384), (1, 33, 20), (3, 1, 7)])
def test_bidirectional_wkv(boundary, shape):
    length, dim = shape[1:]
    inputs = [randn(dim) / length, randn(dim, seed=1), randn(*shape), randn(*shape, seed=2)]
    found = worst_errors(
        lambda *x: bi_wkv(*x, boundary=boundary),
        lambda *x: bi_wkv(*x, boundary=boundary, backend='torch'),
        inputs,
        [torch.float32] * 4,
        'cuda',
    )
    assert found[0] < 5e-6 and (length == 1 or max(found) < 2e-5)


def test_compute_sanitizer():
    home = os.environ.get('CUDA_HOME') or '/usr/local/cuda'
    tool = shutil.which('compute-sanitizer') or shutil.which('compute-sanitizer', path=os.path.join(home, 'bin'))
    if tool is None:
        pytest.skip('compute-sanitizer is not installed')
    code = (
        'import sys; sys.path.insert(0, sys.argv[1])\nimport torch\n'
        'from triton_cases import CASES, PARTIAL, errors_of\n'
        "for case in (*CASES, *PARTIAL):\n    errors_of(case, torch.float16, 'cuda')\n"
    )
    # Without PyTorch's cache of memory each tensor has its own, and what is read beyond it shows.
    result = subprocess.run(
        [tool, '--error-exitcode', '9', sys.executable, '-c', code, __file__.rpartition('/')[0]],
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, 'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'},
    )
    assert result.returncode == 0, result.stdout[-3000:]
