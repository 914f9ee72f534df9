"""The ViT-Adapter's arguments, beginnings, graphs and FLOPs."""

from importlib import import_module

import pytest
import torch
from adapters import PLAINMAMBA, SMALL, VIM, build, lively
from checkout import need
from families import FAMILY_CASES
from mmengine.registry import DefaultScope
from test_backbones import image

from mmvim.models import Vim, ViTAdapter
from mmvim.models.backbones.vit_adapter import equal_groups


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_builds_under_a_foreign_default_scope(scope):
    need(scope)
    registry = import_module(f'{scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        built = registry.build({'type': 'mmvim.ViTAdapter', 'backbone': dict(VIM), **SMALL})
    assert type(built) is ViTAdapter and type(built.plain) is Vim


def test_images_of_more_channels():
    model = build('vim', {'in_channels': 5}).eval()
    assert model.spm.stem[0].in_channels == model.plain.patch_embed.proj.in_channels == 5
    assert model(image(1, 5, 32, 32))[0].shape == (1, 16, 8, 8)


def test_beginnings():
    torch.manual_seed(0)
    model = ViTAdapter({**VIM, 'arch': {'embed_dims': 64, 'depth': 4}}, num_heads=4, init_value=0.5)
    assert (model.interactions[2].injector.gamma == 0.5).all()
    assert 0.8 < model.level_embed.std() < 1.2
    stds = {
        'spm.conv2.0': (2 / (9 * 128)) ** 0.5,
        'spm.fc1': (2 / 64) ** 0.5,
        'up': (2 / (4 * 64)) ** 0.5,
        'interactions.0.extractor.ffn.dwconv.dwconv': (2 / 9) ** 0.5,
        'interactions.3.extra_extractors.1.ffn.fc1': 0.02,
    }
    for name, std in stds.items():
        layer = model.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.15), name
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'fuse': 'all'}, r"fuse='all' is not one of \('groups', 'last'\)"),
        ({'groups': ((0, 3),)}, "fuse='groups' adds one group's patches to each .* there are 1 groups: give four, or"),
        ({'groups': ((0, 1), (3, 3)), 'fuse': 'last'}, r'groups=.* pairs that cover the blocks 0\.\.3 in order'),
        ({'groups': ((0, 1), (2, 4)), 'fuse': 'last'}, r'pairs that cover the blocks 0\.\.3'),
        ({'groups': ((1, 3),), 'fuse': 'last'}, r'pairs that cover the blocks 0\.\.3'),
        ({'groups': (), 'fuse': 'last'}, r'pairs that cover the blocks 0\.\.3'),
        ({'num_heads': 3}, 'num_heads=3 must divide the 16 channels'),
        ({'out_indices': (0, 4)}, r'out_indices=\(0, 4\) must be ints in -4\.\.3'),
        ({'drop_path_rate': 1.0}, r'drop_path_rate=1.0 must lie in \[0, 1\)'),
        ({'num_points': 0}, 'num_points=0 must be at least 1'),
        ({'extra_extractors': -1}, 'extra_extractors=-1 must be at least 0'),
        ({'ffn_ratio': 0.01}, 'ffn_ratio=0.01 leaves nothing of the 16 channels'),
        ({'backbone': {**VIM, 'patch_size': 8}}, r"stride \(8, 8\), and the adapter's maps lie around 16"),
        ({'backbone': {**VIM, 'out_indices': (0, 1)}}, r'backbone.out_indices=\(0, 1\) is not read inside an adapter'),
        ({'backbone': {**PLAINMAMBA, 'final_norm': True}}, 'backbone.final_norm=True is not read'),
        ({'backbone': {'type': 'mmvim.VMamba'}}, 'must be the config of a plain backbone, of type mmvim.LocalVim,'),
        ({'backbone': {'type': 'mmvim.Nothing'}}, 'must be the config of a plain backbone'),
        ({'backbone': 'vim'}, "backbone='vim' must be the config of a plain backbone"),
        ({'backbone': {**VIM, 'arch': {'embed_dims': 16, 'depth': 6}}}, '6 blocks do not make 4 equal groups'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ViTAdapter(**{'backbone': dict(VIM), **SMALL, **options})
    with pytest.raises(TypeError, match='deform_num_heads'):
        ViTAdapter(dict(VIM), deform_num_heads=2)


def test_published_groups():
    assert equal_groups(24) == ((0, 5), (6, 11), (12, 17), (18, 23))


SIZES = [(64, 96), (128, 64), (96, 160)]
FEW = {'groups': ((0, 3),), 'fuse': 'last', 'extra_extractors': 0}  # so that a graph is made in seconds


@pytest.mark.slow
@pytest.mark.parametrize('plain', ['plainmamba', pytest.param('vrwkv', marks=pytest.mark.full)])
def test_one_graph_for_all_sizes(plain):
    model, graphs = build(plain, **FEW).eval(), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for height, width in SIZES:
        x = image(2, 3, height, width)
        for a, b in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize('plain', ['plainmamba', pytest.param('vrwkv', marks=pytest.mark.full)])
def test_one_export_serves_every_size(plain):
    model = build(plain, **FEW).eval()
    sides = {2: 32 * torch.export.Dim('rows', min=2, max=32), 3: 32 * torch.export.Dim('cols', min=2, max=32)}
    program = torch.export.export(model, (image(1, 3, 64, 96),), dynamic_shapes={'x': sides}, strict=False)
    for height, width in SIZES[:2]:
        x = image(1, 3, height, width)
        for a, b in zip(program.module()(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_flops_of_the_sampling_are_counted():
    """Four cells weighted for each number that is sampled, whatever the size."""
    from mmvim.analysis.flops import count_complexity

    model = build('plainmamba')
    without = build('plainmamba')
    for module in without.modules():
        if hasattr(module, 'sampling_offsets'):
            module.forward = lambda query, *others: torch.zeros_like(query)

    def count(model, side):
        return count_complexity(model, lambda: model(torch.rand(1, 3, side, side)))

    whole, rest = count(model, 64), count(without, 64)
    patches, pyramid, dims, points = 16, 84, 16, 4
    linear = 4 * (patches * (72 + dims) + pyramid * dims) * dims  # offsets, shares and outputs; values
    linear += 6 * (pyramid * (24 + dims) + patches * dims) * dims
    sampled = 4 * patches * dims * points * 3 + 6 * pyramid * dims * points
    assert whole[''].flops - rest[''].flops == 2 * linear + 8 * sampled
    assert count(model, 128)[''].flops - count(without, 128)[''].flops == 4 * (2 * linear + 8 * sampled)
    assert whole[''].scan_flops == rest[''].scan_flops > 0
    assert whole[''].params == sum(p.numel() for p in model.parameters())


def test_families_know_their_adapter():
    """An adapter is no family: it has none of its own."""
    assert 'ViTAdapter' not in {case.backbone.__name__ for case in FAMILY_CASES.values()}


@pytest.mark.parametrize('indices', [(0,), (3,), (1, 2, 3), (0, 2), -1])
@pytest.mark.parametrize('fuse', ViTAdapter.fusions)
def test_fewer_outputs(indices, fuse):
    """Those of the whole model; what none of them needs is not built, and a complete file fits."""
    whole, part = lively(fuse=fuse), lively(fuse=fuse, out_indices=indices)
    part.load_state_dict(whole.state_dict(), strict=True)
    x = image(1, 3, 64, 48).double()
    every = whole(x)
    wanted = [every[index] for index in part.out_indices]
    for got, y in zip(part(x), wanted, strict=True):
        torch.testing.assert_close(got, y)
    assert part.not_built and not any(name.startswith(part.not_built) for name in part.state_dict())
    sum(y.square().sum() for y in part(x)).backward()
    assert all(p.grad is not None for p in part.parameters())
