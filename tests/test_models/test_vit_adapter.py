"""The ViT-Adapter as written out, around every plain backbone, and what holds for every other backbone."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from adapter_by_hand import adapter_by_hand
from families import ADAPTERS, FAMILY_CASES, family_of
from family_cases.base import randomised
from mmcv.cnn.bricks import DropPath
from mmengine.registry import DefaultScope
from test_backbones import Scans, image
from test_batch_norm_borders import Between, worst_error
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.models import Vim, ViTAdapter
from mmvim.models.backbones.base import PlainBackbone
from mmvim.models.backbones.vit_adapter import equal_groups
from mmvim.registry import MODELS

VIM = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 16, 'depth': 4, 'd_state': 4}, 'img_size': 64}
PLAINMAMBA = {
    'type': 'mmvim.PlainMamba',
    'arch': {'embed_dims': 16, 'depth': 4, 'd_state': 4, 'd_conv': 3, 'stem_dims': 8, 'conv_blocks': (0,)},
    'img_size': 64,
}
LOCALVIM = {
    'type': 'mmvim.LocalVim',
    'arch': {'embed_dims': 16, 'depth': 4, 'd_state': 4, 'directions': ('h', 'v_flip')},
    'img_size': 64,
}
PLAIN = {
    'vim': VIM,
    'vim-middle': {**VIM, 'cls_token': 'middle'},
    'vim-double': {**VIM, 'cls_token': 'double', 'residual_in_fp32': False},
    'vim-rope': {**VIM, 'rope': True},
    'vim-rope-residual': {**VIM, 'rope': True, 'rope_residual': True, 'cls_token': 'head'},
    'localvim': LOCALVIM,
    'plainmamba': PLAINMAMBA,
    'vrwkv': {'type': 'mmvim.VRWKV', 'arch': {'embed_dims': 16, 'depth': 4}, 'img_size': 64},
    'vrwkv-scaled': {
        'type': 'mmvim.VRWKV',
        'arch': {'embed_dims': 16, 'depth': 4, 'post_norm': True, 'key_norm': True, 'layer_scale': 0.5},
    },
}
SMALL = {'num_heads': 2, 'conv_dims': 8}
EACH = pytest.mark.parametrize('plain', PLAIN)


def build(plain='vim', inner=None, **options):
    torch.manual_seed(0)
    config = {'type': 'mmvim.ViTAdapter', 'backbone': {**PLAIN[plain], **(inner or {})}, **SMALL, **options}
    return MODELS.build(config)


def lively(plain='vim', **options):
    """An adapter in evaluation mode and float64, in which every part has an effect."""
    model = build(plain, **options)
    for name, part in model.named_children():
        if name != 'plain':
            randomised(part, seed=len(name))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(('norm.weight', 'gamma')) and not name.startswith('plain'):
                parameter.add_(1)
    return model.double().eval()


def outputs_and_gradients(function, model, x):
    x = x.clone().requires_grad_()
    outputs = function(x)
    generator = torch.Generator().manual_seed(5)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in outputs)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, [x, *parameters.values()])
    return list(outputs), dict(zip(['the image', *parameters], grads, strict=True))


def test_every_plain_backbone_is_here():
    plain = {
        name for name, cls in MODELS.module_dict.items() if isinstance(cls, type) and issubclass(cls, PlainBackbone)
    }
    assert plain == {config['type'].removeprefix('mmvim.') for config in PLAIN.values()}
    assert set(ADAPTERS) == {'ViTAdapter'}


@EACH
@pytest.mark.parametrize('steps', [(0, 4), (0, 1, 4), (0, 2, 3, 4), (0, 1, 2, 3, 4)])
def test_groups_of_blocks_are_the_backbone(plain, steps):
    """Embedding and blocks, run in any groups, are the backbone without its norms: output and every gradient."""
    config, kind = dict(PLAIN[plain]), MODELS.get(PLAIN[plain]['type'])
    torch.manual_seed(0)
    model = MODELS.build({**config, **kind.bare}).double().eval()
    assert (model.patch_stride, model.depth, model.embed_dims) == ((16, 16), 4, 16)

    def in_groups(x):
        tokens, grid = model.embed(x)
        assert grid == (3, 5)
        for first, stop in itertools.pairwise(steps):
            tokens = model.run_blocks(tokens, grid, first, stop)
        patches = model.patches_of(tokens, grid)
        return [patches.transpose(1, 2).unflatten(2, grid)]

    x = image(2, 3, 48, 70).double()
    outputs, grads = outputs_and_gradients(in_groups, model, x)
    wanted, wanted_grads = outputs_and_gradients(model, model, x)
    torch.testing.assert_close(outputs, wanted, rtol=1e-9, atol=1e-9)
    for name, grad in wanted_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-7, atol=1e-9, msg=name)


@EACH
def test_patches_among_tokens(plain):
    """Patches can be taken out and replaced; class tokens stay where they are, as they are."""
    model = MODELS.build(dict(PLAIN[plain]))
    tokens, grid = model.embed(image(2, 3, 48, 70))
    patches = model.patches_of(tokens, grid)
    assert patches.shape == (2, 15, 16)
    again = model.with_patches(tokens, patches + 1, grid)
    same = (again == tokens).all(-1).all(0)
    assert again.shape == tokens.shape and same.sum() == tokens.shape[1] - 15
    torch.testing.assert_close(model.patches_of(again, grid), patches + 1)


@pytest.mark.parametrize('fuse', ['groups', 'last'])
@pytest.mark.parametrize('plain', ['vim-middle', 'vim-rope', 'plainmamba'])
def test_as_written_out(plain, fuse):
    """Outputs and every gradient, with samples inside and outside of the maps."""
    model = lively(plain, fuse=fuse)
    x = image(1, 3, 32, 64).double()
    outputs, grads = outputs_and_gradients(model, model, x)
    wanted, wanted_grads = outputs_and_gradients(lambda x: adapter_by_hand(model, x, 2), model, x)
    for got, by_hand in zip(outputs, wanted, strict=True):
        assert (got - by_hand).abs().max() < 1e-9 * by_hand.std()
    for name, grad in wanted_grads.items():
        assert grad.any(), name
        assert (grads[name] - grad).norm() < 1e-8 * grad.norm(), name


def test_other_shapes_as_written_out():
    """Unequal groups, narrow values, no further extractors, two pictures."""
    options = {'groups': ((0, 0), (1, 3)), 'value_ratio': 0.5, 'num_points': 2, 'extra_extractors': 0, 'fuse': 'last'}
    model = lively('vim', **options)
    assert model.interactions[1].extra_extractors is None
    x = image(2, 3, 32, 32).double()
    for got, by_hand in zip(model(x), adapter_by_hand(model, x, 2), strict=True):
        assert (got - by_hand).abs().max() < 1e-9 * by_hand.std()


def test_fusions_differ_in_all_levels_but_the_last():
    x = image(1, 3, 64, 64).double()
    one, other = (lively('vim', fuse=fuse) for fuse in ViTAdapter.fusions)
    same = [torch.equal(a, b) for a, b in zip(one(x), other(x), strict=True)]
    assert same == [False, False, False, True]


@EACH
def test_without_injectors_the_backbone_is_itself(plain):
    """A new adapter adds the backbone's own features to its pyramid."""
    model = build(plain, fuse='last').double().eval()
    seen = []
    handle = model.interactions[3].extractor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    x = image(1, 3, 64, 96).double()
    model(x)
    handle.remove()
    wanted = model.plain(x)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen[0], wanted, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        model.interactions[0].injector.gamma.fill_(1)
    model.interactions[3].extractor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    model(x)
    assert not torch.allclose(seen[1], wanted, atol=1e-3)


@EACH
@pytest.mark.parametrize(('height', 'width'), [(64, 64), (50, 83), (33, 32), (1, 70)])
def test_any_size(plain, height, width):
    """Zeros at the bottom and right up to multiples of 32, and outputs of the sizes that other backbones have."""
    model = lively(plain)
    x = image(2, 3, height, width).double()
    outputs = model(x)
    whole = model(F.pad(x, (0, -width % 32, 0, -height % 32)))
    for stride, y, padded in zip((4, 8, 16, 32), outputs, whole, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        assert y.shape == (2, 16, rows, columns) and y.is_contiguous()
        torch.testing.assert_close(y, padded[:, :, :rows, :columns])


@EACH
def test_every_parameter_gets_a_gradient(plain):
    """At the start of an injector its vector alone, and of an attention all but what its points depend on."""
    model = build(plain).train()

    def without():
        model.zero_grad()
        sum((y * image(*y.shape)).sum() for y in model(image(2, 3, 64, 96))).backward()
        assert all(p.grad is not None for p in model.parameters())
        return {name for name, p in model.named_parameters() if not p.grad.any()}

    first = without()
    assert all('.injector.' in name or '.query_norm.' in name for name in first)
    assert not any(name.endswith('gamma') for name in first)
    for interaction in model.interactions:
        nn.init.ones_(interaction.injector.gamma)
        for attention in (m for m in interaction.modules() if hasattr(m, 'attention_weights')):
            nn.init.normal_(attention.attention_weights.weight)
            nn.init.normal_(attention.sampling_offsets.weight)
    assert not without()


@EACH
def test_batch_elements_do_not_mix(plain):
    model = lively(plain)
    x = image(3, 3, 48, 64).double()
    for together, alone in zip(model(x), model(x[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize('plain', ['vim-middle', 'plainmamba'])
def test_recomputation_equals_none(plain):
    """Outputs, gradients, buffers and random numbers, with stochastic depth on."""
    found = []
    for with_cp in (False, True):
        model = build(plain, {'with_cp': with_cp, 'drop_path_rate': 0.3}, with_cp=with_cp, drop_path_rate=0.3).train()
        torch.manual_seed(3)
        outputs, grads = outputs_and_gradients(model, model, image(2, 3, 64, 48))
        found.append([*outputs, *grads.values(), *model.buffers(), torch.rand(1)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Kept(TorchDispatchMode):
    """Counts the samplings of a forward and a backward pass."""

    def __init__(self):
        super().__init__()
        self.samplings = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.samplings += func is torch.ops.aten.grid_sampler_2d.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('with_cp', [False, True])
def test_injectors_and_extractors_are_recomputed(with_cp):
    model = build(with_cp=with_cp).train()
    with Kept() as kept:
        sum(y.sum() for y in model(image(2, 3, 64, 64))).backward()
    samplings = 4 * 3 + 4 + 2  # injectors sample three maps, extractors one
    assert kept.samplings == samplings * (2 if with_cp else 1)


def test_stochastic_depth():
    """Rising in the backbone's blocks, the same in every extractor."""
    model = build('plainmamba', {'drop_path_rate': 0.3}, drop_path_rate=0.2)
    rates = {name: module.drop_prob for name, module in model.named_modules() if isinstance(module, DropPath)}
    assert [rate for name, rate in rates.items() if name.startswith('plain.')] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [rate for name, rate in rates.items() if not name.startswith('plain.')] == [0.2] * 6
    model.train()
    with torch.no_grad():
        first, second = (model(image(4, 3, 64, 64))[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize('plain', ['vim-middle', 'plainmamba'])
def test_frozen_blocks(plain):
    """The backbone's own ``frozen_stages``; adapter and free blocks go on training, through the frozen ones."""
    model = build(plain, {'frozen_stages': 2}).train()
    frozen = [model.plain.patch_embed, *model.plain.layers[:2]]
    assert not any(m.training or any(p.requires_grad for p in m.parameters()) for m in frozen)
    assert model.plain.layers[2].training and model.spm.training and not model.plain.pos_embed.requires_grad
    sum(y.square().sum() for y in model(image(2, 3, 64, 64))).backward()
    assert model.interactions[0].injector.gamma.grad.any() and model.spm.stem[0].weight.grad.any()
    assert all(p.grad is None for m in frozen for p in m.parameters())


@EACH
def test_depth_of_every_parameter(plain):
    """The backbone's rates as without adapter, the adapter's as a head's."""
    model = build(plain)
    for name, _ in model.named_parameters():
        depth, depths = model.get_layer_depth('backbone.' + name, 'backbone.')
        assert depths == 6
        if name.startswith('plain.'):
            bare = name.removeprefix('plain.')
            assert (depth, depths) == model.plain.get_layer_depth(bare)
            assert depth == (int(bare.split('.')[1]) + 1 if bare.startswith('layers.') else 0)
        else:
            assert depth == 5
    assert model.get_layer_depth('decode_head.weight', 'backbone.') == (5, 6)


@EACH
def test_autocast(plain):
    """Finite numbers, scans and samples in float32."""
    model = build(plain).train()
    for interaction in model.interactions:
        nn.init.ones_(interaction.injector.gamma)
    scan = family_of(PLAIN[plain]).scan
    with torch.autocast('cpu', dtype=torch.bfloat16), Scans(scan.operator) as scans:
        outputs = model(image(2, 3, 64, 64) * 10)
    assert scans.seen
    for dtypes in scans.seen:
        assert dtypes[scan.given] == torch.bfloat16
        assert {dtypes[name] for name in scan.kept if name in dtypes} == {torch.float32}
    assert all(torch.isfinite(y.float()).all() for y in outputs)
    sum(y.float().square().sum() for y in outputs).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@EACH
def test_weights_in_half_precision(plain):
    model = build(plain).eval()
    x = image(1, 3, 64, 64)
    wanted = model(x)
    for y, exact in zip(copy.deepcopy(model).bfloat16()(x.bfloat16()), wanted, strict=True):
        assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
        # A PlainMamba of so few channels is inexact by itself in so few digits.
        assert plain == 'plainmamba' or (y.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('plain', ['vim-middle', 'plainmamba'])
def test_batch_norms_between_tokens(plain, mode):
    """The adapter's batch norms stand between maps that are made of tokens, or become such, in both directions."""

    def make():
        model = build(plain)
        for interaction in model.interactions:
            nn.init.ones_(interaction.injector.gamma)
        return Between(model, 3)

    assert worst_error(make, image(1, 3, 64, 96).double(), mode) < 1e-9


def test_a_careless_border_is_seen(monkeypatch):
    """The control: without copies the same test finds wrong gradients, if PyTorch has the fault."""
    from test_batch_norm_borders import FAULTY

    from mmvim.models.layers.plain_layout import PlainLayout

    if not torch.__version__.startswith(FAULTY):
        pytest.skip('not known whether this PyTorch has the fault')
    monkeypatch.setattr(PlainLayout, 'apply', lambda x: x)
    monkeypatch.setattr(
        'mmvim.models.layers.adapter_layers.to_map', lambda x, shape: x.transpose(1, 2).reshape(len(x), -1, *shape)
    )
    assert worst_error(lambda: Between(build('vim'), 3), image(1, 3, 64, 96).double(), 'train') > 1e-3


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


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_builds_under_a_foreign_default_scope(scope):
    registry = pytest.importorskip(f'{scope}.registry').MODELS
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


SIZES = [(64, 96), (128, 64), (50, 150)]
FEW = {'groups': ((0, 3),), 'fuse': 'last', 'extra_extractors': 0}  # so that a graph is made in seconds


@pytest.mark.slow
@pytest.mark.parametrize('plain', ['vim-middle', 'plainmamba', 'vrwkv'])
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
@pytest.mark.parametrize('plain', ['vim-middle', 'plainmamba', 'vrwkv'])
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
