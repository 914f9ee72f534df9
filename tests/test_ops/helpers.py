"""Inputs of a scan, and the comparison with the definition."""

import pytest
import torch

from mmvim.ops import backends

_usable, _reason = backends()['native']
# Backend, the dtype it is compared in, and the error allowed: what float32 rounds, and no more.
KINDS = pytest.mark.parametrize(
    ('backend', 'dtype', 'tolerance'),
    [
        pytest.param('torch', torch.float64, 1e-12, id='torch'),
        pytest.param('native', torch.float32, 5e-6, id='native', marks=pytest.mark.skipif(not _usable, reason=_reason)),
    ],
)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def compare(function, inputs, backend, dtype, tolerance, check_gradients=True):
    """Output(s) and every gradient of `backend` in `dtype` against 'reference' in float64, relative to the largest."""
    results = []
    for name, kind in (('reference', torch.float64), (backend, dtype)):
        # Both start from the same, possibly rounded, numbers.
        leaves = [None if x is None else x.to(dtype).to(kind).requires_grad_() for x in inputs]
        outputs = function(*leaves, backend=name)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = list(outputs)
        if check_gradients:
            loss = sum((x.double() * randn(*x.shape, seed=i)).sum() for i, x in enumerate(outputs))
            found += torch.autograd.grad(loss, [x for x in leaves if x is not None])
        results.append(found)
    for number, (expected, got) in enumerate(zip(*results, strict=True)):
        assert got.shape == expected.shape
        error = ((got.double() - expected).abs().max() / (expected.abs().max() + 1e-12)).item()
        assert error < tolerance, f'result {number}: {error:.1e}'
