"""Vision-RWKV's own ways: two mixes, where norms and scales stand, which average."""

import math

import pytest
import torch
import torch.nn.functional as F
from golden import synthetic
from golden.models import image, output_error
from test_golden import load
from test_q_shift import GRIDS, assert_equal, gradients, with_neighbours
from torch import nn

from mmvim.analysis.flops import count_complexity
from mmvim.models import VRWKV, ChannelMix, HiddenReadout, LinearReadout, SpatialMix
from mmvim.models.layers.pos_embed import resize_grid

SMALL = {'embed_dims': 16, 'depth': 2}
LARGE = {**SMALL, 'post_norm': True, 'key_norm': True, 'layer_scale': 0.5}


def average_slowly(decay, bonus, k, v, boundary):
    """Token by token, all others weighed one by one; decay and bonus are those of one token."""
    length = k.shape[1]
    piece = math.ceil(length / 32)  # of the sequence, of which the kernel makes at most 32
    outputs = []
    for t in range(length):
        start = piece * (t // piece)
        above = below = 0
        for j in range(length):
            distance = abs(t - j)
            if boundary == 'exact':
                weight = torch.exp(bonus) if j == t else torch.exp(-decay * (distance - 1))
            else:
                if j == t:
                    weight = torch.exp(bonus)
                elif start <= j < t:
                    weight = torch.exp(-decay * (distance - 1))
                else:
                    weight = torch.exp(-decay * distance)
                if start < j <= t:
                    weight = weight + torch.exp(decay * distance) * (1 - torch.exp(decay))
            above = above + weight * torch.exp(k[:, j]) * v[:, j]
            below = below + weight * torch.exp(k[:, j])
        outputs.append(above / below)
    return torch.stack(outputs, dim=1)


def mix_space_slowly(layer, x, grid):
    k = layer.key(with_neighbours(x, grid, layer.spatial_mix_k))
    v = layer.value(with_neighbours(x, grid, layer.spatial_mix_v))
    gate = torch.sigmoid(layer.receptance(with_neighbours(x, grid, layer.spatial_mix_r)))
    tokens = x.shape[1]
    y = average_slowly(layer.spatial_decay / tokens, layer.spatial_first / tokens, k, v, layer.boundary)
    y = y if layer.key_norm is None else F.layer_norm(y, y.shape[-1:], layer.key_norm.weight, layer.key_norm.bias)
    return layer.output(gate * y)


def mix_channels_slowly(layer, x, grid):
    hidden = torch.relu(layer.key(with_neighbours(x, grid, layer.spatial_mix_k))) ** 2
    if layer.key_norm is not None:
        hidden = F.layer_norm(hidden, hidden.shape[-1:], layer.key_norm.weight, layer.key_norm.bias)
    return torch.sigmoid(layer.receptance(with_neighbours(x, grid, layer.spatial_mix_r))) * layer.value(hidden)


def randomise(module):
    """The module in float64, every parameter of an effect that is not small."""
    torch.manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


@pytest.mark.parametrize('backend', [None, 'torch', 'reference'])
@pytest.mark.parametrize('boundary', ['exact', 'published'])
@pytest.mark.parametrize('grid', [*GRIDS, (5, 7)])  # the last has pieces of two tokens
def test_the_spatial_mix_against_loops(grid, boundary, backend):
    layer = randomise(SpatialMix(6, key_norm=grid[0] > 3, boundary=boundary, scan_backend=backend))
    x = torch.randn(2, grid[0] * grid[1], 6, dtype=torch.float64)
    parameters = list(layer.parameters())
    expected = gradients(lambda x: mix_space_slowly(layer, x, grid), x, parameters)
    for a, b in zip(gradients(lambda x: layer(x, grid), x, parameters), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize('key_norm', [False, True])
@pytest.mark.parametrize('grid', GRIDS)
def test_the_channel_mix_against_loops(grid, key_norm):
    layer = randomise(ChannelMix(6, hidden_rate=2, key_norm=key_norm))
    x = torch.randn(2, grid[0] * grid[1], 6, dtype=torch.float64)
    parameters = list(layer.parameters())
    found = gradients(lambda x: layer(x, grid), x, parameters)
    assert_equal(found, gradients(lambda x: mix_channels_slowly(layer, x, grid), x, parameters))


def run_slowly(model, x):
    """The whole backbone, from its weights; only pictures that patches tile, and the grid that positions are for."""
    weights, settings = dict(model.named_parameters()), model.arch
    kernel = weights['patch_embed.projection.weight']
    patches = F.unfold(x, 16, stride=16).transpose(1, 2)  # (B, h * w, 3 * 16 * 16)
    tokens = patches @ kernel.flatten(1).T + weights['patch_embed.projection.bias'] + weights['pos_embed']
    grid = (x.shape[2] // 16, x.shape[3] // 16)

    def norm(y, name):
        return F.layer_norm(y, y.shape[-1:], weights[f'{name}.weight'], weights[f'{name}.bias'], 1e-5)

    maps = []
    for index, layer in enumerate(model.layers):
        name = f'layers.{index}'
        if index == 0:
            tokens = norm(tokens, f'{name}.ln0')
        for number, (part, mix) in enumerate(((layer.att, mix_space_slowly), (layer.ffn, mix_channels_slowly)), 1):
            if settings['post_norm']:
                y = norm(mix(part, tokens, grid), f'{name}.ln{number}')
            else:
                y = mix(part, norm(tokens, f'{name}.ln{number}'), grid)
            tokens = tokens + (y if settings['layer_scale'] is None else weights[f'{name}.gamma{number}'] * y)
        y = norm(tokens, 'ln1') if index == model.depth - 1 else tokens
        maps.append(y.transpose(1, 2).unflatten(2, grid))
    return maps


@pytest.mark.parametrize(
    'arch',
    [SMALL, LARGE, {**SMALL, 'layer_scale': 0.5}, {**SMALL, 'post_norm': True, 'hidden_rate': 1.5}],
    ids=['tiny', 'large', 'dense tiny', 'no scale'],
)
def test_the_backbone_against_loops(arch):
    model = randomise(VRWKV(arch, img_size=(32, 48), out_indices=(0, 1)))
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    parameters = list(model.parameters())
    found = gradients(lambda x: torch.cat(model(x)), x, parameters)
    expected = gradients(lambda x: torch.cat(run_slowly(model, x)), x, parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_each_habit_counts():
    """The control: without any of them the loops above would see another result."""
    x = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    model = randomise(VRWKV(LARGE, img_size=(32, 48), out_indices=(0, 1)))
    expected = run_slowly(model, x)

    def differs(change, other=None):
        other = randomise(VRWKV({**LARGE, **(other or {})}, img_size=(32, 48), out_indices=(0, 1)))
        other.load_state_dict(model.state_dict(), strict=False)
        change(other)
        return max((a - b).abs().max() / b.std() for a, b in zip(other(x), expected, strict=True)) > 1e-3

    def drop(path):
        def change(other):
            parent, _, name = path.rpartition('.')
            setattr(other.get_submodule(parent), name, None)

        return change

    assert not differs(lambda other: None)
    assert differs(lambda other: None, {'post_norm': False})
    assert differs(lambda other: None, {'layer_scale': None})
    for path in ('ln1', 'layers.0.ln0', 'layers.1.att.key_norm', 'layers.1.ffn.key_norm'):
        assert differs(drop(path)), path
    with torch.no_grad():
        assert differs(lambda other: other.layers[1].att.spatial_decay.mul_(1.5))
        assert differs(lambda other: other.layers[1].att.spatial_first.add_(5))
        assert differs(lambda other: setattr(other.layers[0].att, 'boundary', 'exact'))


def test_only_the_last_output_is_normed():
    torch.manual_seed(0)
    model = VRWKV({**SMALL, 'depth': 3}, img_size=64, out_indices=(0, 1, 2)).eval()
    x = torch.randn(1, 3, 64, 80)
    before = model(x)
    with torch.no_grad():
        model.ln1.weight.mul_(2)
    for factor, a, b in zip((1, 1, 2), model(x), before, strict=True):
        torch.testing.assert_close(a, factor * b)
    raw = VRWKV({**SMALL, 'depth': 3}, img_size=64, final_norm=False).eval()
    assert raw.ln1 is None and not raw.not_built
    raw.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith('ln1')}, strict=True)
    expected = F.layer_norm(raw(x)[0].permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(expected, before[2])


def test_the_average_that_the_weights_were_trained_with_is_the_default():
    assert {layer.att.boundary for layer in VRWKV(SMALL).layers} == {'published'}
    assert {layer.att.boundary for layer in VRWKV(SMALL, boundary='exact').layers} == {'exact'}
    assert SpatialMix(8).boundary == 'exact'


@pytest.mark.slow
def test_the_recording_sees_the_other_average():
    case, model, _ = load('vrwkv', 'vrwkv_tiny')
    for layer in model.layers:
        layer.att.boundary = 'exact'
    for run in case['runs']:
        with torch.no_grad():
            outputs = model(image(run))
        errors = [output_error(output, recorded) for output, recorded in zip(outputs, run['outputs'], strict=True)]
        assert min(errors) > 4e-5, 'twice the tolerance of the comparison'


@pytest.mark.parametrize(('height', 'width'), [(32, 48), (31, 33), (17, 50), (16, 1), (1, 16)])
def test_pictures_that_patches_do_not_tile_are_padded_with_zeros(height, width):
    torch.manual_seed(0)
    model = VRWKV(SMALL, img_size=64).eval()
    x = torch.randn(2, 3, height, width)
    (found,) = model(x)
    assert found.shape == (2, 16, -(-height // 16), -(-width // 16))
    (padded,) = model(F.pad(x, (0, -width % 16, 0, -height % 16)))
    assert torch.equal(found, padded)


@pytest.mark.parametrize('size', [(64, 64), (96, 160), (50, 40)])
def test_positions_are_resized_for_every_picture(size):
    torch.manual_seed(0)
    small, own = VRWKV(SMALL, img_size=64).eval(), VRWKV(SMALL, img_size=size).eval()
    nn.init.normal_(small.pos_embed)
    own.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(own.pos_embed, resize_grid(small.pos_embed, (4, 4), own.grid_size))
    x = torch.randn(1, 3, *size)
    torch.testing.assert_close(small(x)[0], own(x)[0])


def test_blocks_in_groups():
    """As an adapter runs them."""
    torch.manual_seed(0)
    model = VRWKV({**SMALL, 'depth': 4}, img_size=64, **VRWKV.bare).eval()
    x = torch.randn(2, 3, 48, 80)
    tokens, grid = model.embed(x)
    assert grid == (3, 5) and model.patch_stride == (16, 16)
    tokens = model.run_blocks(model.run_blocks(tokens, grid, 0, 3), grid, 3, 4)
    torch.testing.assert_close(tokens.transpose(1, 2).unflatten(2, grid), model(x)[0])
    assert model.patches_of(tokens, grid) is tokens and model.ln1 is None


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': SMALL, 'boundary': 'kernel'}, "boundary='kernel' must be 'exact' or 'published'"),
        ({'arch': SMALL, 'frozen_stages': 3}, r'frozen_stages=3 must lie in -1\.\.2'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VRWKV(**arguments)


def test_a_new_model_begins_as_the_published():
    torch.manual_seed(0)
    model = VRWKV({'embed_dims': 64, 'depth': 3, 'layer_scale': 1e-5})
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert all(0.017 < module.weight.std() < 0.021 and module.bias is None for module in linear)
    assert not model.pos_embed.any() and model.layers[0].gamma2.unique().tolist() == pytest.approx([1e-5])
    channel = torch.arange(64) / 64
    for index, (late, early) in enumerate(((0, 1), (1 / 2, 2 / 3), (1, 1 / 3))):
        att, ffn = model.layers[index].att, model.layers[index].ffn
        assert (att.spatial_decay[0], att.spatial_decay[-1]) == (-5, 3)
        middle = -5 + 8 * (31 / 63) ** (0.7 + 1.3 * late)
        assert att.spatial_decay[31].item() == pytest.approx(middle, abs=1e-5)
        assert att.spatial_first[:4].tolist() == pytest.approx([math.log(0.3) + x for x in (0, 0.5, -0.5, 0)])
        for mix, power, more in (
            (att.spatial_mix_k, early, 0),
            (att.spatial_mix_v, early, 0.3 * late),
            (att.spatial_mix_r, early / 2, 0),
            (ffn.spatial_mix_k, early, 0),
            (ffn.spatial_mix_r, early, 0),
        ):
            assert mix.shape == (1, 1, 64)
            torch.testing.assert_close(mix.flatten(), channel**power + more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arch', 'side', 'positions', 'millions', 'giga'),
    [
        ('tiny', 224, 224, 6.2, 1.2),
        ('small', 224, 224, 23.8, 4.6),
        ('base', 224, 224, 93.7, 18.2),
        ('large', 384, 192, 334.9, 189.5),
    ],
)
def test_published_sizes(arch, side, positions, millions, giga):
    """Parameters and multiply-adds of the classifiers; VRWKV-L's has a hidden layer in its head."""
    with torch.device('meta'):
        backbone = VRWKV(arch, img_size=positions)
        head = HiddenReadout(1024, 3072) if arch == 'large' else LinearReadout(backbone.embed_dims)
    model, picture = nn.Sequential(backbone, head), torch.empty(1, 3, side, side, device='meta')
    counted = count_complexity(model, lambda: model(picture))['']
    assert counted.params / 1e6 == pytest.approx(millions, abs=0.06)
    assert counted.macs / 1e9 == pytest.approx(giga, abs=0.06 + 0.002 * giga)


def test_the_size_of_the_recording():
    with torch.device('meta'):
        model = VRWKV('Tiny')
    assert sum(p.numel() for p in model.parameters()) == synthetic.load('vrwkv_tiny')['parameters']


# The stored grid, others, and single rows and columns of patches
EXPORTED = [(6, 10), (4, 4), (5, 7), (9, 2), (16, 3)]


@pytest.mark.slow
@pytest.mark.parametrize('strict', [False, pytest.param(True, marks=pytest.mark.full)])
def test_one_export_serves_every_grid(strict):
    model = VRWKV(SMALL, img_size=64, out_indices=(0, 1)).eval()
    sides = {2: 16 * torch.export.Dim('rows', min=2, max=64), 3: 16 * torch.export.Dim('cols', min=2, max=64)}
    program = torch.export.export(
        model, (torch.randn(1, 3, 96, 160),), dynamic_shapes={'x': sides}, strict=strict
    ).run_decompositions({})
    for h, w in EXPORTED:
        x = torch.randn(1, 3, 16 * h, 16 * w)
        for a, b in zip(program.module()(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_graph_for_all_grids():
    model = VRWKV(SMALL, img_size=64, out_indices=(0, 1)).eval()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for h, w in EXPORTED:
        x = torch.randn(2, 3, 16 * h, 16 * w)
        for a, b in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
