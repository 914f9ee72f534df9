"""The convolution before the scans, in C++ and by PyTorch's operators, against its written-out definition."""

import pytest
import torch
from helpers import BACKENDS, KINDS, randn, worst_errors

from mmvim.ops.conv_silu import conv1d_silu


def definition(x, weight, bias, left):
    outputs = []
    for k, n in enumerate(left):
        taps = weight.shape[-1]
        padded = torch.nn.functional.pad(x, (0, 0, n, taps - 1 - n))
        y = sum(weight[k, :, i] * padded[:, i : i + x.shape[1]] for i in range(taps))
        outputs.append(y if bias is None else y + bias[k])
    return torch.nn.functional.silu(torch.stack(outputs, dim=1))


@pytest.mark.covering(2)
@KINDS
@pytest.mark.parametrize(
    ('batch', 'length', 'dim', 'taps', 'left'),
    [
        (2, 7, 5, 4, (3, 0)),
        (1, 130, 40, 3, (1,)),
        (3, 64, 16, 4, (3, 0, 2)),
        (1, 1, 33, 2, (0, 1)),
        (2, 3, 150, 7, (6,)),
    ],
)
@pytest.mark.parametrize('biased', [False, True])
@pytest.mark.parametrize('strided', [False, True])
def test_output_and_gradients(batch, length, dim, taps, left, biased, strided, backend, dtype, tolerance):
    inputs = [
        randn(batch, length, dim * (1 + strided)),
        randn(len(left), dim, taps),
        randn(len(left), dim) if biased else None,
    ]

    def run(function, **more):
        return lambda x, w, b=None: function(x.chunk(2, dim=-1)[0] if strided else x, w, b, left, **more)

    ours = run(conv1d_silu, backend=backend)
    assert ours(*(None if x is None else x.to(dtype) for x in inputs)).dtype == dtype
    assert max(worst_errors(ours, run(definition), inputs, [dtype] * 3)) < tolerance


@BACKENDS
def test_half_precision_and_autocast(backend):
    x, weight, bias = randn(2, 9, 24).float(), randn(2, 24, 4).float(), randn(2, 24).float()
    expected = conv1d_silu(x, weight, bias, (3, 0), backend='torch')
    half = conv1d_silu(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), (3, 0), backend=backend)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        cast = conv1d_silu(x, weight, bias, (3, 0), backend=backend)
    for got in (half, cast):
        assert got.dtype == torch.bfloat16
        assert (got - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize(
    ('weight', 'left', 'words'),
    [
        ((2, 5, 4), (3, 0), r'x must be \(B, L, D\)'),
        ((2, 6, 4), (3,), 'left K numbers'),
        ((2, 6, 4), (3, 4), 'in 0..3'),
    ],
)
def test_bad_arguments_are_named(weight, left, words):
    with pytest.raises(ValueError, match=words):
        conv1d_silu(torch.zeros(1, 3, 6), torch.zeros(weight), None, left)
