"""The Triton kernels on a GPU: ``pytest -m gpu``."""

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from triton_cases import CASES, CROSS, LONG, Case, worst_errors

from mmvim.ops import selective_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.fused.rms_norm import add_rms_norm, add_rms_norm_reference
from mmvim.ops.selective_scan.triton import plan

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='PyTorch finds no GPU')]

VIM = ('forward', 'reverse')
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
    Case('N 64', 1, 100, 300, 64),
)
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', (*CASES, *LONG, *MODELS), ids=lambda case: case.name)
def test_against_the_definition(case, dtype):
    errors = worst_errors(case, dtype, 'cuda')
    assert all(error < TOLERANCES[dtype] for error in errors.values()), errors


def test_segments(monkeypatch):
    case = Case('segments', 1, 40, 700, 16)
    monkeypatch.setattr(plan, 'LEAST_SEGMENT', 100)
    counts = []
    divide = plan.Sizes.segments
    monkeypatch.setattr(plan.Sizes, 'segments', lambda *a: counts.append(divide(*a)) or counts[-1])
    errors = worst_errors(case, torch.float32, 'cuda')
    assert all(error < 5e-5 for error in errors.values()), errors
    assert all(count > 2 for count, _ in counts)


@pytest.mark.parametrize('case', (MODELS[0], MODELS[2], MODELS[6]), ids=lambda case: case.name)
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
    grad, = torch.autograd.grad((out * 1e-6).sum(), u)
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


def test_norm_and_convolution():
    generator = torch.Generator('cuda').manual_seed(0)
    x, residual = (torch.randn(3, 77, 192, device='cuda', generator=generator) for _ in range(2))
    weight = torch.randn(192, device='cuda', generator=generator)
    for a, b in zip(add_rms_norm(x.half(), residual, weight), add_rms_norm_reference(x.half(), residual, weight),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    filters, shifts = (torch.randn(2, 192, *n, device='cuda', generator=generator) for n in ((4,), ()))
    found = []
    for device in ('cuda', 'cpu'):
        inputs = [t.to(device).requires_grad_() for t in (x, filters, shifts)]
        y = conv1d_silu(*inputs, (3, 0))
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)


def small_models():
    from mmvim.models.backbones import MambaVision, Vim
    yield Vim(arch={'embed_dims': 64, 'depth': 3}, img_size=64, out_indices=(0, 2))
    yield MambaVision(arch={'depths': (1, 1, 2, 2), 'dim': 32, 'in_dim': 16, 'num_heads': (1, 2, 4, 8)})


@pytest.mark.parametrize('number', [0, 1], ids=['Vim', 'MambaVision'])
def test_models_on_cpu_and_gpu_agree(number):
    torch.manual_seed(0)
    model = list(small_models())[number].eval()
    picture = torch.randn(2, 3, 70, 90)
    expected = model(picture)
    found = copy.deepcopy(model).cuda()(picture.cuda())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('number', [0, 1], ids=['Vim', 'MambaVision'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_models_compile_and_train_under_autocast(number, dtype):
    torch.manual_seed(0)
    model = list(small_models())[number].cuda().train()
    compiled = torch.compile(model, fullgraph=True)
    picture = torch.randn(2, 3, 64, 64, device='cuda')
    with torch.autocast('cuda', dtype=dtype):
        loss = sum(y.float().square().mean() for y in compiled(picture))
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_compute_sanitizer():
    tool = shutil.which('compute-sanitizer')
    if tool is None:
        pytest.skip('compute-sanitizer is not installed')
    code = ('import sys; sys.path.insert(0, sys.argv[1])\nimport torch\nfrom triton_cases import CASES, worst_errors\n'
            "for case in CASES:\n    worst_errors(case, torch.float16, 'cuda')\n")
    result = subprocess.run([tool, '--error-exitcode', '9', sys.executable, '-c', code, __file__.rpartition('/')[0]],
                            text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
