"""The operators where PyTorch must be deterministic, on several numbers of threads: equal bits, every gradient too.

Those in C++ give them for any number. PyTorch computes SiLU, sigmoid and softplus of what is left over at the end of a
thread's share by another function than of the rest, so plain PyTorch gives them where two shares are whole vectors.
"""

import pytest
import torch
from helpers import inputs_of, path_inputs_of, randn, scan_of, scan_paths_of, why_not

from mmvim.ops import bi_wkv, cross_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm


def conv(x, weight, bias, backend):
    return conv1d_silu(x, weight, bias, (3, 0), backend)


def norm(x, residual, weight, backend):
    return add_rms_norm(x, residual, weight, 1e-5, backend)


def average(boundary):
    return lambda w, u, k, v, backend: bi_wkv(w.abs() / k.shape[1], u, k, v, boundary=boundary, backend=backend)


def calls(dim: int, side: int) -> dict[str, tuple]:
    """Each operator with its inputs, large enough that PyTorch, too, shares the work among threads."""
    length = side * (side + 8)
    tokens = (1, length, dim)
    averaged = randn(dim), randn(dim, seed=1), randn(*tokens), randn(*tokens, seed=1)
    paths = scan_paths_of(paths=cross_scan(side, side + 8))
    return {
        'scan of one batch element': (scan_of(), inputs_of(1, dim, length, 5, 1, True)),
        'scan of a few channels': (scan_of(True), inputs_of(1, 8, length, 16, 1, True)),
        'scan of two batch elements': (scan_of(), inputs_of(2, dim, length, 16, 2, True)),
        'scan of four paths': (paths, path_inputs_of(1, (4,), dim, length, 3)),
        'scan of four paths, shared': (paths, path_inputs_of(1, (), dim, length, 1)),
        'convolution': (conv, (randn(*tokens), randn(2, dim, 4), randn(2, dim))),
        'norm': (norm, (randn(*tokens), randn(*tokens, seed=1), randn(dim))),
        'average': (average('exact'), averaged),
        'average, published': (average('published'), averaged),
    }


NATIVE, PLAIN = calls(70, 23), calls(64, 24)
THREADS = {'native': (1, 2, 2, 16), 'torch': (1, 2, 2)}


@pytest.fixture
def deterministic():
    """What ``randomness=dict(deterministic=True)`` asks of PyTorch."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('backend', [name for name in THREADS if not why_not(name)])
@pytest.mark.parametrize('call', NATIVE)
def test_equal_bits_on_any_number_of_threads(call, backend, deterministic):
    if backend == 'native' and call == 'norm':
        pytest.skip('the norm is plain PyTorch on CPUs')
    run, inputs = (NATIVE if backend == 'native' else PLAIN)[call]
    before, found = torch.get_num_threads(), []
    try:
        for threads in THREADS[backend]:
            torch.set_num_threads(threads)
            leaves = [x.float().requires_grad_() for x in inputs]
            outputs = run(*leaves, backend=backend)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = sum((y * randn(*y.shape, seed=i).float()).sum() for i, y in enumerate(outputs))
            found.append([*outputs, *torch.autograd.grad(loss, leaves)])
    finally:
        torch.set_num_threads(before)
    for threads, other in zip(THREADS[backend][1:], found[1:], strict=True):
        assert [torch.equal(a, b) for a, b in zip(found[0], other, strict=True)] == [True] * len(other), threads
