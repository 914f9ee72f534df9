"""Inputs of which real training sees few: constant, huge, saturated, endless, none. No operator makes NaN of them.

The criterion is the definition in float64: where its result is a number of the dtype, so is the backend's, and where it
lies beyond the largest one, the backend's is infinite or the largest, never NaN.
"""

import pytest
import torch
from helpers import TAKES, randn, why_not
from torch import Tensor

from mmvim.ops import bi_wkv, selective_scan
from mmvim.ops.conv_silu import conv1d_silu
from mmvim.ops.rms_norm import add_rms_norm

LENGTH = 50
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = pytest.mark.parametrize(
    ('backend', 'dtype'),
    [
        pytest.param(
            backend,
            dtype,
            marks=pytest.mark.skipif(bool(why_not(backend)), reason=why_not(backend)),
            id=f'{backend}-{str(dtype).removeprefix("torch.")}',
        )
        for backend, taken in TAKES.items()
        for dtype in DTYPES
        if dtype in taken
    ],
)


def tokens(value: float, seed: int = 0) -> Tensor:
    """Normal numbers times a value, (2, 20, L)."""
    return randn(2, 20, LENGTH, seed=seed) * value


def scan_inputs(**changes: Tensor) -> dict[str, Tensor]:
    """A scan of 20 channels and 3 states, in float64."""
    rows = {name: randn(2, 1, 3, LENGTH, seed=seed) for name, seed in (('B', 3), ('C', 4))}
    channels = {'D': randn(20), 'delta_bias': randn(20, seed=5), 'A': -randn(20, 3).exp()}
    return {'u': tokens(1), 'delta': tokens(1, 1), 'z': tokens(1, 2), **rows, **channels, **changes}


ZEROS = {name: torch.zeros_like(value) for name, value in scan_inputs().items()}
SCANS = {
    'constant': {name: torch.ones_like(ZEROS[name]) for name in ('u', 'delta', 'B', 'C', 'z')},
    'zeros': ZEROS,
    'values of 1e4': {name: scan_inputs()[name] * 1e4 for name in ('u', 'z')},
    'everything 1e4': {name: scan_inputs()[name] * 1e4 for name in ('u', 'delta', 'B', 'C', 'z')},
    'steps of 1e4': {'delta': tokens(1).abs() * 1e4},
    'steps of nothing': {'delta': -tokens(1).abs() * 1e4},
    'steps of both': {'delta': tokens(1e4)},
    'bias saturated': {'delta_bias': randn(20) * 1e4},
    'decay of 1e4': {'A': -torch.full((20, 3), 1e4, dtype=torch.float64)},
    'decay of 1e30': {'A': -torch.full((20, 3), 1e30, dtype=torch.float64)},
    'no decay': {'A': -torch.full((20, 3), 1e-30, dtype=torch.float64)},
    'gate saturated': {'z': tokens(1e4)},
}


def results(run, tensors: dict[str, Tensor], kinds: dict[str, torch.dtype]) -> dict[str, Tensor]:
    """The outputs, and the gradients of their sum with weights, by name, in float64."""
    leaves = {name: value.to(kinds[name]).requires_grad_() for name, value in tensors.items()}
    outputs = run(**leaves)
    loss = sum((y.double() * randn(*y.shape, seed=9 + i)).sum() for i, y in enumerate(outputs))
    grads = torch.autograd.grad(loss, list(leaves.values()))
    named = {f'output {i}': y for i, y in enumerate(outputs)} | dict(zip(leaves, grads, strict=True))
    return {name: value.detach() for name, value in named.items()}


def compare(run, definition, tensors, dtype, kept=(), floors=None):
    """Hold what ``run`` makes of tensors in ``dtype`` (those ``kept`` in float32) to the criterion.

    Differences are relative to the largest value or, if more, to a floor, by default 1: what is left where numbers of
    that size cancel.
    """
    kinds = {name: torch.float32 if name in kept else dtype for name in tensors}
    rounded = {name: value.to(kinds[name]).double() for name, value in tensors.items()}
    expected = results(definition, rounded, dict.fromkeys(tensors, torch.float64))
    for name, got in results(run, tensors, kinds).items():
        exact, most = expected[name], torch.finfo(got.dtype).max
        assert not exact.isnan().any(), f'the definition makes NaN of it: {name}'
        assert not got.isnan().any(), name
        far = exact.abs() > most / 4
        assert got[~far].isfinite().all(), name
        assert (got[far].sign() == exact[far].sign()).all(), name
        size = max(exact.abs().max().item(), (floors or {}).get(name, 1.0))
        error = (got.double() - exact)[~far].abs().max() if not far.all() else 0.0
        assert error <= {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}[dtype] * size, name


def scan_by(backend: str, out_dtype: torch.dtype | None = None):
    """The output and the last state."""
    options = {'delta_softplus': True, 'return_last_state': True, 'backend': backend, 'out_dtype': out_dtype}
    return lambda **x: selective_scan(**x, **options)


@KINDS
@pytest.mark.parametrize('case', SCANS)
def test_scan(case, backend, dtype):
    tensors, kept = scan_inputs(**SCANS[case]), ('A', 'D', 'delta_bias')
    compare(scan_by(backend), scan_by('reference'), tensors, dtype, kept)


@pytest.mark.parametrize('case', ['values of 1e4', 'everything 1e4'])
@KINDS
def test_scan_into_float32(case, backend, dtype):
    """What float16 cannot hold, float32 can."""
    tensors, kept = scan_inputs(**SCANS[case]), ('A', 'D', 'delta_bias')
    compare(scan_by(backend, torch.float32), scan_by('reference'), tensors, dtype, kept)


CONVOLUTIONS = {
    'constant': {'x': torch.ones_like(tokens(1).mT)},
    'zeros': dict.fromkeys(('x', 'weight', 'bias'), 0.0),
    'values of 1e4': {'x': 1e4},
    'saturated': {'x': 1e4, 'weight': 1e3, 'bias': -1e4},
}


@KINDS
@pytest.mark.parametrize('case', CONVOLUTIONS)
def test_convolution(case, backend, dtype):
    tensors = {'x': tokens(1).mT, 'weight': randn(2, 20, 4), 'bias': randn(2, 20)}
    for name, change in CONVOLUTIONS[case].items():
        tensors[name] = tensors[name] * change
    compare(
        lambda **x: (conv1d_silu(**x, left=(3, 0), backend=backend),),
        lambda **x: (conv1d_silu(**x, left=(3, 0), backend='reference'),),
        tensors,
        dtype,
    )


NORMS = {
    'constant': (torch.ones(5, 24, dtype=torch.float64), 1.0),
    'zeros': (torch.zeros(5, 24, dtype=torch.float64), 1.0),
    'zero weight': (randn(5, 24), 0.0),
    'values of 1e4': (randn(5, 24) * 1e4, 1.0),
    'values of 1e-6': (randn(5, 24) * 1e-6, 1.0),
}


@KINDS
@pytest.mark.parametrize('case', NORMS)
def test_norm(case, backend, dtype):
    x, weight = NORMS[case]
    compare(
        lambda x, residual, weight: add_rms_norm(x, residual, weight, backend=backend),
        lambda x, residual, weight: add_rms_norm(x, residual, weight, backend='reference'),
        {'x': x, 'residual': x.flip(0), 'weight': randn(24) * weight},
        dtype,
    )


AVERAGES = {
    'constant': {'k': 0.0, 'v': 0.0},
    'zeros': dict.fromkeys(('decay', 'bonus', 'k', 'v'), 0.0),
    'values of 1e4': {'v': 1e4},
    'keys of 1e4': {'k': 1e4},
    'decay of 1e4': {'decay': 1e4},
    'growth of 1e4': {'decay': -1e4},
    'bonus of 1e4': {'bonus': 1e4},
    'everything 1e4': dict.fromkeys(('decay', 'bonus', 'k', 'v'), 1e4),
}


@KINDS
@pytest.mark.parametrize('boundary', ['exact', 'published'])
@pytest.mark.parametrize('case', AVERAGES)
def test_average(case, boundary, backend, dtype):
    """The published boundary's weights cancel where the decay is large: there it is held to be finite."""
    tensors = {'decay': randn(20).abs() / LENGTH, 'bonus': randn(20), 'k': tokens(1, 1).mT, 'v': tokens(1, 2).mT}
    for name, factor in AVERAGES[case].items():
        tensors[name] = tensors[name] * factor
    run = lambda backend: lambda **x: (bi_wkv(**x, boundary=boundary, backend=backend),)  # noqa: E731
    if boundary == 'published' and tensors['decay'].max() > 1:
        kinds = {name: torch.float32 if name in ('decay', 'bonus') else dtype for name in tensors}
        found = results(run(backend), tensors, kinds)
        assert not [name for name, value in found.items() if value.isnan().any()]
        return
    size = tensors['v'].abs().max().item()
    floors = {'decay': 2 * LENGTH**2 * size, 'bonus': 2 * LENGTH * size, 'k': LENGTH * size}
    compare(run(backend), run('reference'), tensors, dtype, ('decay', 'bonus'), floors)


@pytest.mark.parametrize(
    'backend',
    [pytest.param(name, marks=[pytest.mark.full] * (name != 'native')) for name in TAKES if not why_not(name)],
)
@pytest.mark.parametrize('decay', [1e-9, 1e-3, 1e4])
@pytest.mark.parametrize('step', [1e-6, 1.0])
def test_scan_of_100_000_tokens(step, decay, backend):
    """Constant input, whose state is a geometric series; and all gradients are numbers."""
    length, a = 100_000, -decay * step
    ones = torch.ones(1, 3, length)
    leaves = [x.requires_grad_() for x in (ones, ones * step, torch.full((3, 2), -decay), ones[:, :2], ones[:, :2])]
    out, last = selective_scan(*leaves, return_last_state=True, backend=backend)
    t = torch.arange(1, length + 1, dtype=torch.float64)
    expected = step * torch.expm1(a * t) / torch.expm1(torch.tensor(a, dtype=torch.float64))
    torch.testing.assert_close(out[0, 0].double(), 2 * expected, rtol=5e-3, atol=0)
    assert last.isfinite().all()
    for grad in torch.autograd.grad(out.sum() + last.sum(), leaves):
        assert grad.isfinite().all()
