"""PlainMamba's own ways: scans that permute u alone and know their directions, a stem that pads, positions, norms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmvim.models import PlainMamba, PlainMambaMixer
from mmvim.models.backbones.plain_mamba import ConvStem, PlainMambaBlock
from mmvim.models.layers.pos_embed import resize_grid

SMALL = {'embed_dims': 16, 'depth': 2, 'd_state': 4, 'd_conv': 3, 'stem_dims': 8, 'stem_convs': 1, 'conv_blocks': (0,)}
SIZES = [(3, 5), (4, 3), (2, 2), (1, 4), (5, 1), (1, 1)]
START, RIGHT, LEFT, UP, DOWN = range(5)


def mixer(**options):
    """A mixer in float64 whose scans have an effect that is not small."""
    torch.manual_seed(0)
    built = PlainMambaMixer(6, **{'d_state': 3, 'd_conv': 3, **options}).double()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name != 'A_log':
                parameter.normal_(std=0.5)
    return built


def snakes(H, W):
    """The four walks, cell by cell: each goes on until it hits the border, takes a turn, and comes back."""
    yield from (
        walk(start, along, across, H, W)
        for start, along, across in (
            ((0, 0), RIGHT, DOWN),
            ((H - 1, W - 1 if H % 2 else 0), LEFT if H % 2 else RIGHT, UP),
            ((0, 0), DOWN, RIGHT),
            ((H - 1 if W % 2 else 0, W - 1), UP if W % 2 else DOWN, LEFT),
        )
    )


def walk(cell, along, across, H, W):
    """Pairs of a cell and the direction of the step that reached it."""
    moves = {RIGHT: (0, 1), LEFT: (0, -1), UP: (-1, 0), DOWN: (1, 0)}
    back = {RIGHT: LEFT, LEFT: RIGHT, UP: DOWN, DOWN: UP}
    visited = [(cell, START)]
    while True:
        for direction in (along, across):
            i, j = (a + b for a, b in zip(cell, moves[direction], strict=True))
            if 0 <= i < H and 0 <= j < W:
                break
        else:
            return visited
        along = along if direction == along else back[along]
        cell = (i, j)
        visited.append((cell, direction))


def mix_slowly(layer, x):
    """One batch element, path and step after the other, with permuted copies of u."""
    outputs = []
    for picture in x:
        H, W = picture.shape[1:]
        inner = layer.in_proj(picture.permute(1, 2, 0))  # (H, W, 2 * D)
        value, gate = inner[..., : layer.d_inner], inner[..., layer.d_inner :]
        u = F.silu(layer.conv2d(value.permute(2, 0, 1)[None])[0]).permute(1, 2, 0)  # (H, W, D)
        raster = u.reshape(H * W, -1)
        dt, b, c = layer.x_proj(raster).split([layer.dt_rank, layer.d_state, layer.d_state], dim=-1)
        delta = F.softplus(layer.dt_proj(dt) + layer.dt_proj.bias)  # the bias for the second time
        A = -torch.exp(layer.A_log)
        total = torch.zeros_like(u)
        for steps in snakes(H, W):
            assert len({cell for cell, _ in steps}) == H * W == len(steps)
            state = torch.zeros_like(A)
            for t, (cell, direction) in enumerate(steps):
                B = b[t] + layer.direction_Bs[direction]  # the t-th of the map, whatever the cell
                state = torch.exp(delta[t][:, None] * A) * state + (delta[t] * u[cell])[:, None] * B
                total[cell] = total[cell] + state @ c[t] + layer.D * u[cell]
        outputs.append(layer.out_proj(total * F.silu(gate)).permute(2, 0, 1))
    return torch.stack(outputs)


def gradients(function, layer, x):
    x = x.clone().requires_grad_()
    y = function(layer, x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize('backend', ['torch', 'reference'])
@pytest.mark.parametrize(('H', 'W'), SIZES)
def test_the_mixer_against_loops(H, W, backend):
    layer = mixer(scan_backend=backend)
    x = torch.randn(2, 6, H, W, dtype=torch.float64)
    found, expected = gradients(lambda layer, x: layer(x), layer, x), gradients(mix_slowly, layer, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)  # A is float32


def test_each_habit_counts():
    """The control: without any of them the loops above would see another result."""
    layer, x = mixer(), torch.randn(1, 6, 3, 5, dtype=torch.float64)
    expected = mix_slowly(layer, x)

    def differs(change):
        with torch.no_grad():
            kept = {name: p.clone() for name, p in layer.named_parameters()}
            change()
            error = (layer(x) - expected).abs().max() / expected.std()
            layer.load_state_dict(kept)
        return error > 0.05

    assert not differs(lambda: None)
    assert differs(lambda: layer.direction_Bs.copy_(layer.direction_Bs[[0, 2, 1, 3, 4]]))  # right for left
    assert differs(lambda: layer.direction_Bs.copy_(layer.direction_Bs[[0, 1, 2, 4, 3]]))  # up for down
    assert differs(lambda: layer.direction_Bs[0].zero_())
    assert differs(lambda: layer.dt_proj.bias.div_(2))


class Sizes(TorchDispatchMode):
    """Notes the operation and the size of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:  # no view
                self.seen.append((func.overloadpacket.__name__, x.numel()))
        return result


# What may make tensors of the size of u: products, the convolution, activations, the scan, and sums of gradients. None
# of them reorders or copies.
COMPUTING = {
    'addmm', 'mm', 'bmm', 'convolution', 'convolution_backward', 'silu', 'silu_backward', 'selective_scan_fwd',
    'selective_scan_bwd', 'cat', 'add', 'native_layer_norm', 'native_layer_norm_backward', 'ones_like',
}  # fmt: skip


def large_tensors(run, block, x):
    with Sizes() as sizes:
        run(block, x).backward(torch.ones_like(x))
    size = x.shape[1] * x.shape[2] * block.mamba.d_inner
    return [(name, numel) for name, numel in sizes.seen if numel >= size]


@pytest.mark.parametrize('batch', [1, 2])
def test_no_copy_of_u(batch):
    """Forward and backward: nothing as large as u of one picture is gathered, flipped, cloned or made contiguous."""
    torch.manual_seed(0)
    block = PlainMambaBlock(16, {'d_state': 4}, drop_path_rate=0.0, conv=False)
    x = torch.randn(batch, 7, 13, 16, requires_grad=True)
    found = large_tensors(lambda block, x: block(x), block, x)
    assert ('silu', batch * 7 * 13 * 32) in found, 'u itself must be seen'
    assert {name for name, _ in found} <= COMPUTING
    # One scan for all paths, into one tensor of the size of u
    assert [numel for name, numel in found if name == 'selective_scan_fwd'].count(batch * 7 * 13 * 32) == 1


def test_a_copy_of_u_is_seen():
    """The control: what the textbook does, a permuted copy for each path."""
    block = PlainMambaBlock(16, {'d_state': 4}, drop_path_rate=0.0, conv=False)
    x = torch.randn(1, 7, 13, 16, requires_grad=True)
    order = torch.randperm(7 * 13)

    def copying(block, x):
        handle = block.mamba.conv2d.register_forward_hook(
            lambda module, inputs, y: y.flatten(2)[..., order].unflatten(2, y.shape[2:])
        )
        y = block(x)
        handle.remove()
        return y

    assert {name for name, _ in large_tensors(copying, block, x)} - COMPUTING


@pytest.mark.parametrize(('height', 'width'), [(32, 48), (31, 33), (17, 50), (16, 1), (1, 16)])
def test_the_stem_pads_its_map_not_the_picture(height, width):
    """So that the picture's own zeros, behind convolutions and batch norm, are not what the last patches see."""
    torch.manual_seed(0)
    stem = ConvStem(3, 8, stem_dims=4, stem_convs=2).eval()
    assert list(stem.convs.state_dict())[6] == '3.weight' and len(stem.convs) == 6
    for norm in stem.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.bias, 0.5, 1)
    x = torch.randn(2, 3, height, width)
    found = stem(x)
    rows, columns = stem.grid(height, width)
    assert found.shape == (2, rows, columns, 8) == (2, -(-height // 16), -(-width // 16), 8)
    cells = stem.convs(stem.stem(x))
    assert cells.shape[2:] == (-(-height // 2), -(-width // 2))
    padded = cells.new_zeros(2, 4, 8 * rows, 8 * columns)
    padded[:, :, : cells.shape[2], : cells.shape[3]] = cells
    torch.testing.assert_close(found, stem.projection(padded).permute(0, 2, 3, 1))
    whole = stem(F.pad(x, (0, 16 * columns - width, 0, 16 * rows - height)))
    assert torch.allclose(found, whole, atol=1e-5) == (height % 16 == width % 16 == 0)


def weird(x):
    """The same map as tokens make it: at batch 1 its batch axis has the stride of the channels."""
    return x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('part', ['stem', 'block'])
def test_batch_norms_between_maps_of_any_layout(part, mode):
    """The fault of test_batch_norm_borders.py, with such maps and gradients fed in from either end.

    Convolution and activation around each batch norm keep both of its sides in one layout.
    """
    torch.manual_seed(0)
    if part == 'stem':
        module, shape = ConvStem(3, 16, 8, stem_convs=1), (1, 3, 64, 48)
        run = lambda x: module(x).permute(0, 3, 1, 2)  # noqa: E731
    else:
        module, shape = PlainMambaBlock(16, {'d_state': 4}, 0.0, conv=True), (1, 16, 4, 6)
        run = lambda x: module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # noqa: E731
    module = module.double().train(mode == 'train')
    picture = torch.randn(shape, dtype=torch.float64)
    cotangent = torch.randn(run(picture).shape, dtype=torch.float64)
    assert weird(picture).stride() != picture.stride()
    found = []
    for of_input in (torch.clone, weird):
        for of_gradient in (torch.clone, weird):
            x = of_input(picture).requires_grad_()
            found.append(torch.autograd.grad(run(x), [x, *module.parameters()], of_gradient(cotangent)))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert (a - b).norm() <= 1e-9 * b.norm() + 1e-12


def test_norms_of_outputs():
    """Inner outputs are normed on their way out, the stream is not; the last block's output has a norm of its own."""
    torch.manual_seed(0)
    model = PlainMamba({**SMALL, 'depth': 4}, img_size=64, out_indices=(0, 2, 3)).eval()
    norms = {name.split('.')[0] for name in model.state_dict() if name.startswith(('norm_layer', 'ln1'))}
    assert norms == {'norm_layer0', 'norm_layer2', 'ln1'}
    x = torch.randn(1, 3, 64, 80)
    before = model(x)
    with torch.no_grad():
        for name in norms:
            model.get_submodule(name).weight.mul_(2)
    for a, b in zip(model(x), before, strict=True):
        torch.testing.assert_close(a, 2 * b)
    raw = PlainMamba({**SMALL, 'depth': 4}, img_size=64, out_indices=(0, 2, 3), out_norm=False, final_norm=False).eval()
    assert raw.ln1 is None and not raw.not_built
    raw.load_state_dict({n: v for n, v in model.state_dict().items() if n.split('.')[0] not in norms}, strict=True)
    for a, b in zip(raw(x), before, strict=True):
        torch.testing.assert_close(F.layer_norm(a.permute(0, 2, 3, 1), (16,), eps=1e-6).permute(0, 3, 1, 2), b)


def test_the_extra_convolution_is_outside_of_the_residual():
    torch.manual_seed(0)
    block = PlainMambaBlock(16, {'d_state': 4}, drop_path_rate=0.0, conv=True).eval()
    with torch.no_grad():
        block.dw[0].weight.zero_()
    y = block(torch.randn(2, 3, 5, 16))
    assert torch.equal(y, F.gelu(torch.zeros_like(y)))  # of the stream nothing is left
    assert [index for index, layer in enumerate(PlainMamba(SMALL).layers) if layer.dw is not None] == [0]


@pytest.mark.parametrize('size', [(64, 64), (96, 160), (50, 40)])
def test_positions_are_resized_for_every_picture(size):
    torch.manual_seed(0)
    small, own = PlainMamba(SMALL, img_size=64).eval(), PlainMamba(SMALL, img_size=size).eval()
    own.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(own.pos_embed, resize_grid(small.pos_embed, (4, 4), own.grid_size))
    x = torch.randn(1, 3, *size)
    torch.testing.assert_close(small(x)[0], own(x)[0])


def test_weights_without_a_record_are_square():
    """As all that the authors publish are, also where the model has as many positions in another shape."""
    published = PlainMamba(SMALL, img_size=64).state_dict()
    del published['pos_embed_grid']
    model = PlainMamba(SMALL, img_size=(32, 128))
    model.load_state_dict(dict(published), strict=True)
    assert torch.equal(model.pos_embed, resize_grid(published['pos_embed'], (4, 4), (2, 8)))
    recorded = model.state_dict()
    again = PlainMamba(SMALL, img_size=(32, 128))
    again.load_state_dict(recorded, strict=True)
    assert torch.equal(again.pos_embed, model.pos_embed)
    del recorded['pos_embed_grid']
    recorded['pos_embed'] = recorded['pos_embed'][:, :12]
    with pytest.raises(ValueError, match=r'12 positions, and does not say of which grid; this model has 2 x 8'):
        again.load_state_dict(recorded)
    with pytest.raises(ValueError, match='do not fill the grid it records'):
        again.load_state_dict({**recorded, 'pos_embed_grid': torch.tensor([3, 5])})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'arch': {**SMALL, 'conv_blocks': (2,)}}, r'conv_blocks=\(2,\) must be blocks, ints in 0\.\.1'),
        ({'arch': {**SMALL, 'd_conv': 4}}, 'd_conv=4 must be odd'),
        ({'frozen_stages': 3, 'arch': SMALL}, r'frozen_stages=3 must lie in -1\.\.2'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PlainMamba(**arguments)


def test_names_of_architectures():
    with torch.device('meta'):
        sizes = {arch: (m.embed_dims, m.depth) for arch in ('L1', 'l2', 'L3') for m in [PlainMamba(arch)]}
    assert sizes == {'L1': (192, 24), 'l2': (384, 24), 'L3': (448, 36)}


def test_a_new_model_begins_as_the_published():
    """Every linear layer alike; the mixer by itself begins with Mamba's steps, once its bias has entered twice."""
    torch.manual_seed(0)
    model = PlainMamba({'embed_dims': 64, 'depth': 1})
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert all(0.017 < module.weight.std() < 0.021 for module in linear)
    assert not any(module.bias.any() for module in linear if module.bias is not None)
    steps = F.softplus(2 * PlainMambaMixer(64).dt_proj.bias)
    assert steps.min() > 0.99e-3 and steps.max() < 0.101


# The stored grid, others, and single rows and columns of patches
GRIDS = [(6, 10), (4, 4), (5, 7), (9, 2), (16, 3)]


@pytest.mark.slow
@pytest.mark.parametrize('strict', [False, pytest.param(True, marks=pytest.mark.full)])
def test_one_export_serves_every_grid(strict):
    model = PlainMamba(SMALL, img_size=64, out_indices=(0, 1)).eval()
    sides = {2: 16 * torch.export.Dim('rows', min=2, max=64), 3: 16 * torch.export.Dim('cols', min=2, max=64)}
    program = torch.export.export(
        model, (torch.randn(1, 3, 96, 160),), dynamic_shapes={'x': sides}, strict=strict
    ).run_decompositions({})
    for h, w in GRIDS:
        x = torch.randn(1, 3, 16 * h, 16 * w)
        for a, b in zip(program.module()(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_graph_for_all_grids():
    model = PlainMamba(SMALL, img_size=64, out_indices=(0, 1)).eval()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for h, w in GRIDS:
        x = torch.randn(2, 3, 16 * h, 16 * w)
        for a, b in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
    # What belongs to a size is made in the graph: no map, no direction of another one is built into it.
    constants = [getattr(graphs[0], node.target) for node in graphs[0].graph.nodes if node.op == 'get_attr']
    assert not [constant for constant in constants if isinstance(constant, torch.Tensor)]
