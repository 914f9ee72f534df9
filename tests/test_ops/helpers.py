"""The backends that a test runs over, inputs of a scan, and the comparison with the definition."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mmvim.ops import backends, selective_scan, selective_scan_paths
from mmvim.ops.triton_host.device import interpreting

# The backends for tensors on a CPU, with the dtypes that each takes; what one does not take goes to 'torch'. Where
# Triton interprets its kernels, in a process of its own (test_triton.py), it is the one to test; test_triton_gpu.py has
# what needs a GPU.
HALF = (torch.bfloat16, torch.float16)
TAKES = (
    {'triton': (torch.float32, *HALF)}
    if interpreting()
    else {'torch': (torch.float64, torch.float32, *HALF), 'native': (torch.float32, *HALF)}
)
# The error allowed, relative to the largest value: what a dtype rounds, and no more.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6}


def why_not(backend: str) -> str:
    """What keeps a backend from running here; '' for nothing."""
    usable, reason = backends()[backend]
    return '' if usable else f'{backend}: {reason}'


def _param(backend: str, *values: Any, dtype: torch.dtype | None = None) -> Any:
    """A parameter with the backend first in its name, skipped where the backend is not here."""
    kind, reason = str(dtype).removeprefix('torch.'), why_not(backend)
    skip = pytest.mark.skipif(bool(reason), reason=reason)
    return pytest.param(backend, *values, marks=skip, id=f'{backend}-{kind}' if dtype else backend)


HERE = [backend for backend in TAKES if not why_not(backend)]
BACKENDS = pytest.mark.parametrize('backend', [_param(backend) for backend in TAKES])
COMPARED = [(backend, dtype) for backend, taken in TAKES.items() for dtype in TOLERANCES if dtype in taken]
# Backend, the dtype it is compared in, and the error allowed.
KINDS = pytest.mark.parametrize(
    ('backend', 'dtype', 'tolerance'),
    [_param(backend, dtype, TOLERANCES[dtype], dtype=dtype) for backend, dtype in COMPARED],
)

# The same without the error, and the definition itself.
DEFINED = pytest.mark.parametrize(
    ('backend', 'dtype'),
    [
        pytest.param('reference', torch.float64, id='reference'),
        *(_param(backend, dtype, dtype=dtype) for backend, dtype in COMPARED),
    ],
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, by shape and seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def scan_of(reverse: bool = False, last: bool = True, **more: Any) -> Callable:
    """A scan of one path with softplus, whose decay is -exp(A)."""

    def scan(u, delta, A, B, C, D=None, z=None, bias=None, state=None, backend=None):
        options = {'reverse': reverse, 'initial_state': state, 'backend': backend, **more}
        return selective_scan(u, delta, -A.exp(), B, C, D, z, bias, True, last, **options)

    return scan


def inputs_of(batch: int, dim: int, length: int, d_state: int, groups: int, optional: bool) -> tuple:
    """What :func:`scan_of` takes, with or without what is optional."""
    extra = (randn(dim), randn(batch, dim, length, seed=3), randn(dim, seed=4), randn(batch, dim, d_state))
    return (
        randn(batch, dim, length),
        randn(batch, dim, length, seed=1),
        randn(dim, d_state) * 0.3,
        randn(batch, groups, d_state, length),
        randn(batch, groups, d_state, length, seed=2),
        *(extra if optional else (None,) * 4),
    )


def scan_paths_of(**options: Any) -> Callable:
    """A scan of several paths with softplus, whose decay is -exp(A)."""

    def scan(u, delta, A, B, C, D=None, z=None, bias=None, backend=None):
        return selective_scan_paths(u, delta, -A.exp(), B, C, D, z, bias, True, backend=backend, **options)

    return scan


def path_inputs_of(batch: int, k: tuple[int, ...], dim: int, length: int, d_state: int, gated: bool = True) -> tuple:
    """What :func:`scan_paths_of` takes: for each of ``k[0]`` paths, or, where ``k`` is (), for all of them."""
    return (
        randn(batch, *k, dim, length),
        randn(batch, *k, dim, length, seed=1),
        randn(*k, dim, d_state) * 0.3,
        randn(batch, *k, d_state, length),
        randn(batch, *k, d_state, length, seed=2),
        randn(*k, dim),
        randn(batch, dim, length, seed=3) if gated else None,
        randn(*k, dim, seed=4),
    )


def worst_errors(
    run: Callable, definition: Callable, inputs: Sequence[Tensor | None], dtypes: Sequence[torch.dtype], device='cpu'
) -> list[float]:
    """Compare every output and every gradient with the definition in float64.

    Args:
        run: Takes the inputs.
        definition: Takes them in float64.
        inputs: In float64, None for one that is absent. Both sides start from the same, possibly rounded, numbers.
        dtypes: Of each input in ``run``.
        device: Where both compute.

    Returns:
        The largest difference of each output, then of the gradient of each input that is there, relative to the
        largest value of the definition's.
    """
    results = []
    for function, kinds in ((definition, [torch.float64] * len(inputs)), (run, dtypes)):
        leaves = [
            None if x is None else x.to(rounded).to(device).to(kind).requires_grad_()
            for x, rounded, kind in zip(inputs, dtypes, kinds, strict=True)
        ]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum((x.double() * randn(*x.shape, seed=i).to(device)).sum() for i, x in enumerate(outputs))
        results.append([*outputs, *torch.autograd.grad(loss, [x for x in leaves if x is not None])])
    for expected, got in zip(*results, strict=True):
        assert expected.shape == got.shape
    return [
        ((got.double() - expected).abs().max() / (expected.abs().max() + 1e-12)).item()
        for expected, got in zip(*results, strict=True)
    ]


def compare(function: Callable, inputs: Sequence[Tensor | None], backend: str, dtype: torch.dtype, tolerance: float):
    """Hold the outputs and every gradient of a backend in a dtype to those of 'reference' in float64."""
    errors = worst_errors(
        lambda *leaves: function(*leaves, backend=backend),
        lambda *leaves: function(*leaves, backend='reference'),
        inputs,
        [dtype] * len(inputs),
    )
    for number, error in enumerate(errors):
        assert error < tolerance, f'result {number}: {error:.1e}'
