"""VMamba's blocks and downsampling against implementations that are written out cell by cell."""

import math

import pytest
import torch
import torch.nn.functional as F
from checkout import load_config
from family_cases.base import randomised
from mmengine.registry import MODELS, init_default_scope

from mmvim.models import VMamba

SECOND = {'depths': (1, 1, 1, 1), 'dim': 8}
ARCHS = {
    'first': {**SECOND, 'd_state': 3, 'ssm_ratio': 2, 'mlp_ratio': 0, 'release': 'v0'},
    'second': SECOND,
    'second, wide': {**SECOND, 'ssm_ratio': 2, 'd_state': 2},
}


def orders(height, width):
    """The cells in the order of each of the four scans: along rows, along columns, and both from the last cell on."""
    rows = [(r, c) for r in range(height) for c in range(width)]
    columns = [(r, c) for c in range(width) for r in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def per_path(op, name, out):
    """The four matrices of a projection, whichever form it has."""
    weight = getattr(op, f'{name}_weight') if op.stacked else getattr(op, name).weight
    return weight.reshape(4, out, -1)


def scan(op, mixed, paths):
    """The four scans of a map (H, W, D), step by step, each in the order of its cells; their sum (H, W, D)."""
    d_inner, rank, states = op.d_inner, op.dt_rank, op.d_state
    x_proj, dt_proj = per_path(op, 'x_proj', rank + 2 * states), per_path(op, 'dt_projs', d_inner)
    total = torch.zeros_like(mixed)
    for k, cells in enumerate(paths):
        a = -op.A_logs[k * d_inner : (k + 1) * d_inner].exp()  # (D, N)
        skip = op.Ds[k * d_inner : (k + 1) * d_inner]
        state = torch.zeros(d_inner, states)
        for cell in cells:
            u = mixed[cell]
            projected = x_proj[k] @ u
            delta = F.softplus(dt_proj[k] @ projected[:rank] + op.dt_projs_bias[k])
            b, c = projected[rank : rank + states], projected[rank + states :]
            state = (delta[:, None] * a).exp() * state + (delta * u)[:, None] * b
            total[cell] += state @ c + skip * u
    return total


def convolved(op, value):
    """The depthwise convolution of a map (H, W, D), tap by tap, zeros around it."""
    height, width, _ = value.shape
    out = torch.zeros_like(value)
    for r in range(height):
        for c in range(width):
            if op.conv2d.bias is not None:
                out[r, c] += op.conv2d.bias
            for i in range(3):
                for j in range(3):
                    y, x = r + i - 1, c + j - 1
                    if 0 <= y < height and 0 <= x < width:
                        out[r, c] += value[y, x] * op.conv2d.weight[:, 0, i, j]
    return out


@torch.no_grad()
def written_out(block, x, paths):
    """The block on one map (H, W, C)."""
    op = block.op
    inner = block.norm(x) @ op.in_proj.weight.T
    mixed = F.silu(convolved(op, inner[..., : op.d_inner]))
    y = op.out_norm(scan(op, mixed, paths))
    if block.mlp is None:  # the first release gates
        y = y * F.silu(inner[..., op.d_inner :])
    x = x + y @ op.out_proj.weight.T
    if block.mlp is None:
        return x
    hidden = block.norm2(x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


@pytest.fixture(params=ARCHS)
def block(request):
    """A block of each release with random weights, two maps that are not square, and what it makes of them."""
    model = randomised(VMamba(ARCHS[request.param]), scale=0.4).eval()
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(3))
    block = model.layers[0].blocks[0]
    with torch.no_grad():
        return block, x, block(x)


def test_block_written_out(block):
    block, x, y = block
    for one, result in zip(x, y, strict=True):
        torch.testing.assert_close(result, written_out(block, one, orders(3, 5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'wrong',
    [
        lambda rows, columns, back, up: (rows, back, columns, up),
        lambda rows, columns, back, up: (columns, rows, up, back),
        lambda rows, columns, back, up: (rows, columns, rows, columns),
        lambda rows, columns, back, up: (rows, [*columns[:-2], columns[-1], columns[-2]], back, up),
    ],
    ids=['order of the paths', 'transposed', 'one way', 'two cells swapped'],
)
def test_other_orders_are_seen(block, wrong):
    block, x, y = block
    other = written_out(block, x[0], wrong(*orders(3, 5)))
    assert (other - y[0]).abs().max() > 1e-3


@pytest.mark.parametrize(('height', 'width'), [(4, 6), (5, 6), (3, 5)])
def test_downsampling_of_the_first_release_written_out(height, width):
    """Each 2 x 2 square, its left column before its right one; zeros beyond an odd side."""
    layer = randomised(VMamba(ARCHS['first'])).layers[0].downsample
    x = torch.randn(2, height, width, 8)
    merged = torch.zeros(2, -(-height // 2), -(-width // 2), 32)
    for row in range(height):
        for col in range(width):
            place = 2 * (col % 2) + row % 2
            merged[:, row // 2, col // 2, 8 * place : 8 * place + 8] = x[:, row, col]
    expected = layer[1](merged) @ layer[2].weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('arch', 'sizes'),
    [('first', [(7, 11), (4, 6), (2, 3), (1, 2)]), ('second', [(8, 12), (4, 6), (2, 3), (1, 2)])],
)
def test_sizes_at_which_the_releases_differ(arch, sizes):
    """The first release cuts off what does not fill a cell, the second pads it."""
    outputs = VMamba(ARCHS[arch]).eval()(torch.randn(1, 3, 30, 47))
    assert [tuple(y.shape[2:]) for y in outputs] == sizes
    assert all(y.is_contiguous() for y in outputs)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': 'tiny-s1l8'}, "arch='tiny-s1l8' is not one of .*'tiny-s2l5'"),
        ({'arch': {**SECOND, 'release': 'v1'}}, "release='v1' must be 'v0' or 'v2'"),
        ({'arch': {**SECOND, 'depths': (1, 1, 1)}}, r'depths=\(1, 1, 1\) must be four positive ints'),
        ({'arch': {**SECOND, 'window_size': 7}}, r"unknown \['window_size'\]"),
        ({'arch': SECOND, 'frozen_stages': 5}, 'frozen_stages=5 must lie in -1..4'),
        ({'arch': SECOND, 'out_indices': (0, 1), 'final_norm': True}, 'final_norm=True normalises stage 3'),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VMamba(**arguments)


def test_half_precision_weights_run_outside_autocast():
    for arch in ARCHS.values():
        model = VMamba(arch).to(torch.bfloat16).eval()
        with torch.no_grad():
            outputs = model(torch.randn(1, 3, 64, 48, dtype=torch.bfloat16))
        assert all(y.dtype == torch.bfloat16 and torch.isfinite(y.float()).all() for y in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'parameters'), [('tiny', 54546956), ('small', 76070924), ('base', 109765548)])
def test_first_segmentors_have_the_printed_size(size, parameters):
    """As segmentation/model.py of the publisher's code prints them."""
    pytest.importorskip('mmseg')
    cfg = load_config(f'vmamba/vmamba-vanilla-{size}_upernet_8xb2-160k_ade20k-512x512.py')
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == parameters
