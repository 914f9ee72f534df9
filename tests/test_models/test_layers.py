"""Layers a user may put into a backbone of their own."""

import pytest
import torch
from families import FAMILY_CASES
from torch import nn

from mmvim.models.layers.window_attention import WindowAttention, merge_windows, split_windows
from mmvim.registry import MODELS

MIXERS = [(family, number) for family, case in FAMILY_CASES.items() for number in range(len(case.mixers))]


@pytest.mark.parametrize(('family', 'number'), MIXERS)
def test_token_mixers_keep_the_shape_and_train(family, number):
    mixer = MODELS.build(dict(FAMILY_CASES[family].mixers[number]))
    x = torch.randn(2, 7, 12, requires_grad=True)
    y = mixer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in mixer.parameters()) and x.grad.any()


@pytest.mark.parametrize(
    'cfg',
    [
        {},
        {'paths': ('row',), 'd_state': 1, 'expand': 1, 'gate': False, 'conv_bias': False},
        {'paths': ('col', 'row_reverse'), 'd_conv': 1, 'norm_cfg': {'type': 'mmvim.RMSNorm'}},
    ],
)
def test_selective_scan_2d_on_a_map_that_is_not_square(cfg):
    layer = MODELS.build({'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, **cfg})
    x = torch.randn(2, 8, 3, 5, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters()) and x.grad.any()


def test_selective_scan_2d_equals_four_scans_of_permuted_copies():
    """The textbook form: permute, project, scan, put back, add."""
    import torch.nn.functional as F

    from mmvim.ops import selective_scan

    torch.manual_seed(0)
    layer = MODELS.build({'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'd_state': 3})
    x = torch.randn(2, 8, 3, 5)
    value, gate = layer.in_proj(x.permute(0, 2, 3, 1)).chunk(2, dim=-1)
    u = F.silu(layer.conv2d(value.permute(0, 3, 1, 2)))
    total = 0
    for k in range(4):
        sequence = (u if k % 2 == 0 else u.transpose(2, 3)).flatten(2)
        sequence = sequence.flip(-1) if k >= 2 else sequence
        dt, b, c = (layer.x_proj_weight[k] @ sequence).split([layer.dt_rank, 3, 3], dim=1)
        y = selective_scan(
            sequence,
            layer.dt_projs_weight[k] @ dt,
            -torch.exp(layer.A_logs.reshape(4, 16, 3)[k]),
            b,
            c,
            layer.Ds.reshape(4, 16)[k],
            delta_bias=layer.dt_projs_bias[k],
            delta_softplus=True,
            backend='reference',
        )
        y = y.flip(-1) if k >= 2 else y
        total = total + (y.reshape(2, 16, 3, 5) if k % 2 == 0 else y.reshape(2, 16, 5, 3).transpose(2, 3))
    expected = layer.out_proj(layer.out_norm(total.permute(0, 2, 3, 1)) * F.silu(gate)).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('H', 'W'), [(7, 5), (1, 6), (1, 1)])
def test_selective_scan_2d_takes_any_list_of_orders(H, W):
    paths = ('window3_padded', 'atrous2_4_reverse', 'hilbert', 'zigzag_diagonal_reverse', 'window2_padded_col', 'row')
    layers = [
        MODELS.build({'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'paths': paths, 'scan_backend': backend})
        for backend in (None, 'reference')
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 8, H, W)
    torch.testing.assert_close(layers[0](x), layers[1](x), rtol=1e-4, atol=1e-5)


def test_selective_scan_2d_takes_projections_in_either_form():
    """One axis for the paths, or the paths one below the other, as files of VMamba have them."""
    cfg = {'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'd_state': 3}
    stacked, flat = MODELS.build(cfg), MODELS.build({**cfg, 'stacked': False})
    assert stacked.x_proj_weight.shape == (4, 7, 16) and flat.x_proj.weight.shape == (28, 16)
    assert stacked.dt_projs_weight.shape == (4, 16, 1) and flat.dt_projs.weight.shape == (64, 1)
    x = torch.randn(2, 8, 3, 5)
    for source, target in ((stacked, flat), (flat, stacked), (flat, flat)):
        given = source.state_dict()
        names = list(given)
        target.load_state_dict(given, strict=True)
        assert list(given) == names, 'the weights that were given have changed'
        torch.testing.assert_close(target(x), source(x))
    (name,) = [name for name in flat.state_dict() if name.startswith('x_proj')]
    with pytest.raises(RuntimeError, match='size mismatch'):
        stacked.load_state_dict({**flat.state_dict(), name: torch.zeros(27, 16)})


def test_selective_scan_2d_sums_in_float32_under_autocast():
    """The sum of the four scans of 20,000 is beyond the largest number of half precision, 65,504."""
    layer = MODELS.build({'type': 'mmvim.SelectiveScan2D', 'embed_dims': 8, 'd_state': 1, 'gate': False, 'd_conv': 1})
    seen = []
    layer.out_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        layer.in_proj.weight.fill_(1.0)
        layer.Ds.fill_(1e4)
    with torch.autocast('cpu', dtype=torch.float16):
        y = layer(torch.full((1, 8, 3, 5), 0.5))
    assert seen[0].dtype == torch.float32 and seen[0].abs().max() > 65504 and torch.isfinite(y).all()
    half = layer.half()
    assert half(torch.randn(1, 8, 3, 5).half()).dtype == torch.float16


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'paths': ()}, 'paths is empty'),
        ({'paths': ('sideways',)}, 'sideways'),
        ({'d_conv': 2}, 'd_conv=2 must be odd'),
        ({'dt_rank': 'big'}, "dt_rank='big'"),
    ],
)
def test_selective_scan_2d_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS.get('SelectiveScan2D')(8, **arguments)


@pytest.mark.parametrize(('height', 'width'), [(8, 8), (5, 9), (2, 3)])
def test_windows_come_apart_and_together(height, width):
    x = torch.randn(2, 3, height, width)
    tokens, padded = split_windows(x, 4)
    assert tokens.shape == (2 * padded[0] * padded[1] // 16, 16, 3)
    assert torch.equal(merge_windows(tokens, 4, padded)[:, :, :height, :width], x)
    assert torch.equal(tokens[0, 0], x[0, :, 0, 0])


def test_window_attention_equals_torch():
    attention = WindowAttention(8, 2)
    peer = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(attention.qkv.weight)
        peer.in_proj_bias.copy_(attention.qkv.bias)
        peer.out_proj.load_state_dict(attention.proj.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(attention(x), peer(x, x, x)[0])
    with pytest.raises(ValueError, match='num_heads=3 must divide'):
        WindowAttention(8, 3)


def test_norms():
    rms = MODELS.build({'type': 'mmvim.RMSNorm', 'normalized_shape': 6})
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(rms(x), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    ln = MODELS.build({'type': 'mmvim.LN2d', 'normalized_shape': 6})
    y = ln(x.permute(0, 2, 1)[..., None])
    torch.testing.assert_close(y[..., 0].permute(0, 2, 1), nn.functional.layer_norm(x, (6,), eps=1e-6))
