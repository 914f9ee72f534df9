"""SimpleFPN computes detectron2's simple feature pyramid, here written out in functions, and takes what Vim gives."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm

from mmvim.models import SimpleFPN, Vim
from mmvim.registry import MODELS


def layer_norm(x, weight, bias):
    """detectron2's LayerNorm over the channels of a map."""
    mean = x.mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
    return weight[:, None, None] * x + bias[:, None, None]


def written_out(x, p):
    """The pyramid from the map x and the parameters p of a SimpleFPN, by name."""

    def head(y, level, first):
        y = F.conv2d(y, p[f'levels.{level}.{first}.weight'])
        y = layer_norm(y, p[f'levels.{level}.{first + 1}.weight'], p[f'levels.{level}.{first + 1}.bias'])
        y = F.conv2d(y, p[f'levels.{level}.{first + 2}.weight'], padding=1)
        return layer_norm(y, p[f'levels.{level}.{first + 3}.weight'], p[f'levels.{level}.{first + 3}.bias'])

    def double(y, name):
        return F.conv_transpose2d(y, p[f'{name}.weight'], p[f'{name}.bias'], stride=2)

    four = layer_norm(double(x, 'levels.0.0'), p['levels.0.1.weight'], p['levels.0.1.bias'])
    four = double(F.gelu(four), 'levels.0.3')
    outs = [head(four, 0, 4), head(double(x, 'levels.1.0'), 1, 1), head(x, 2, 0), head(F.max_pool2d(x, 2, 2), 3, 1)]
    return [*outs, outs[-1][:, :, ::2, ::2]]


@pytest.mark.parametrize(('height', 'width'), [(8, 8), (7, 10), (3, 5)])
def test_equals_the_written_out_pyramid(height, width):
    torch.manual_seed(0)
    neck = SimpleFPN(16, out_channels=12).double()
    with torch.no_grad():  # norms start as identities, which would hide a missing one
        for parameter in neck.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(2, 16, height, width, dtype=torch.double, requires_grad=True)
    got = neck((x,))
    expected = written_out(x, dict(neck.named_parameters()))
    assert len(got) == len(expected) == 5
    weights = [torch.randn_like(y) for y in got]
    grads = [
        torch.autograd.grad(sum((w * y).sum() for w, y in zip(weights, outs, strict=True)), [x, *neck.parameters()])
        for outs in (got, expected)
    ]
    for a, b in zip((*got, *grads[0]), (*expected, *grads[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_shapes_and_no_bias_beside_a_norm():
    neck = SimpleFPN(192)
    shapes = [tuple(y.shape[1:]) for y in neck((torch.randn(1, 192, 6, 4),))]
    assert shapes == [(256, 24, 16), (256, 12, 8), (256, 6, 4), (256, 3, 2), (256, 2, 1)]
    convolutions = [m for m in neck.modules() if type(m) is torch.nn.Conv2d]
    assert len(convolutions) == 8 and all(m.bias is None for m in convolutions)
    assert [m.eps for m in neck.modules() if isinstance(m, torch.nn.LayerNorm)] == [1e-6] * 9


def test_initialisation_is_pytorchs_own():
    torch.manual_seed(0)
    neck = SimpleFPN(8, out_channels=8)
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    neck.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in neck.state_dict().items())
    torch.manual_seed(0)
    assert torch.equal(neck.levels[0][0].weight, torch.nn.ConvTranspose2d(8, 4, 2, 2).weight)


def test_from_a_config_with_other_levels_and_norm():
    neck = revert_sync_batchnorm(
        MODELS.build(
            {
                'type': 'mmvim.SimpleFPN',
                'in_channels': 8,
                'out_channels': 4,
                'scales': (2, 1),
                'num_outs': 4,
                'norm_cfg': {'type': 'SyncBN'},
            }
        )
    )
    outs = neck([torch.randn(2, 8, 8, 8)])
    assert [tuple(y.shape[2:]) for y in outs] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in neck.modules())


def test_registered_norm_in_a_head_of_mmdet():
    pytest.importorskip('mmdet')
    from mmcv.cnn import ConvModule

    layer = ConvModule(4, 8, 3, norm_cfg={'type': 'mmvim.LN2d'})
    assert type(layer.norm).__name__ == 'LN2d' and layer.conv.bias is None


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('size', [(64, 64), (48, 112), (50, 70)])
def test_under_a_detectors_vim(size, with_cp):
    """One map of stride 16 at any size; checkpointed blocks give the same gradients."""
    torch.manual_seed(0)
    vim = Vim({'embed_dims': 16, 'depth': 3}, img_size=64, rope=True, rope_residual=True, with_cp=with_cp)
    neck = SimpleFPN(16, out_channels=8)
    image = torch.randn(2, 3, *size)
    maps = vim(image)
    rows, columns = -(-size[0] // 16), -(-size[1] // 16)
    assert len(maps) == 1 and maps[0].shape == (2, 16, rows, columns)
    outs = neck(maps)
    assert [y.shape[2] for y in outs[:3]] == [4 * rows, 2 * rows, rows]
    sum(y.square().mean() for y in outs).backward()
    grads = {name: p.grad.clone() for name, p in vim.named_parameters()}
    assert all(g.abs().sum() > 0 for g in grads.values())
    vim.zero_grad()
    vim.with_cp = not with_cp
    sum(y.square().mean() for y in neck(vim(image))).backward()
    for name, p in vim.named_parameters():
        torch.testing.assert_close(p.grad, grads[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'in_channels': 18}, 'in_channels=18 must be one int divisible by 4'),
        ({'in_channels': [192]}, r'in_channels=\[192\] must be one int'),
        ({'in_channels': 8, 'scales': (4, 3)}, r'scales=\(4, 3\) must descend and be of 4, 2, 1, 0.5'),
        ({'in_channels': 8, 'scales': (1, 2)}, 'must descend'),
        ({'in_channels': 8, 'scales': ()}, 'must descend'),
        ({'in_channels': 8, 'num_outs': 3}, 'num_outs=3 must be at least 4'),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        SimpleFPN(**arguments)


def test_unknown_argument():
    with pytest.raises(TypeError, match='backbone_channel'):
        SimpleFPN(8, backbone_channel=8)


def test_bad_maps():
    neck = SimpleFPN(8, out_channels=4)
    with pytest.raises(ValueError, match=r'from one map and got 2.*out_indices=-1'):
        neck((torch.randn(1, 8, 4, 4),) * 2)
    with pytest.raises(ValueError, match=r'1 x 4 cells cannot be halved.*pad_size_divisor'):
        neck((torch.randn(1, 8, 1, 4),))
