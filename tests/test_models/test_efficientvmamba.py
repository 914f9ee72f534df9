"""EfficientVMamba's own ways: grids that skip cells, written out step by step, its blocks, and what freezing keeps."""

import pytest
import torch
import torch.nn.functional as F
from family_cases.base import randomised

from mmvim.models import ES2D, EfficientVMamba, SelectiveScan2D
from mmvim.models.layers import selective_scan_2d
from mmvim.models.layers.evss_layers import ConvStage, EVSSBlock, InvertedResidual
from mmvim.models.layers.vss_layers import Merging
from mmvim.registry import MODELS

# First row, first column and whether the grid is scanned column by column, in the order of the stacked parameters.
GRIDS = {
    2: [(0, 0, False), (1, 0, True), (0, 1, False), (1, 1, True)],
    3: [
        *((0, 0, False), (1, 0, True), (2, 0, False)),
        *((0, 1, False), (1, 1, True), (2, 1, False)),
        *((0, 2, False), (1, 2, True), (2, 2, False)),
    ],
}
SIZES = [(4, 6), (5, 7), (7, 4), (3, 2), (6, 1), (1, 5), (1, 1)]  # height and width
EXPORTED = [(96, 160), (100, 52), (64, 64)]  # pictures; the second has odd maps
SMALL = {'depths': (1, 1, 2, 1), 'dim': 8}


def cells_of(height, width, step, grid):
    """Row and column of each step through a grid, which goes on beyond the map to as many as the largest has."""
    first_row, first_column, by_columns = grid
    rows = range(first_row, -(-height // step) * step, step)
    columns = range(first_column, -(-width // step) * step, step)
    if by_columns:
        return [(i, j) for j in columns for i in rows]
    return [(i, j) for i in rows for j in columns]


def written_out(layer, x, padded=True):
    """ES2D with every grid and every step spelt out; decays come from float32, as they do in every mixer.

    Without ``padded``, the steps beyond the map are left out, which is wrong.
    """
    height, width = x.shape[2:]
    a = -layer.A_logs.float().exp().unflatten(0, (-1, layer.d_inner))
    d = layer.Ds.unflatten(0, (-1, layer.d_inner))
    u, z = torch.einsum('bchw,dc->bdhw', x, layer.in_proj.weight).chunk(2, dim=1)
    u = F.conv2d(u, layer.conv2d.weight, layer.conv2d.bias, padding=1, groups=layer.d_inner)
    u = u * u.sigmoid()
    outputs = {}
    for k, grid in enumerate(GRIDS[layer.step]):
        state = x.new_zeros(len(x), layer.d_inner, layer.d_state)
        for i, j in cells_of(height, width, layer.step, grid):
            inside = i < height and j < width
            if not (inside or padded):
                continue
            now = u[:, :, i, j] if inside else torch.zeros_like(u[:, :, 0, 0])  # (B, D)
            dt, b, c = (now @ layer.x_proj_weight[k].T).split([layer.dt_rank, layer.d_state, layer.d_state], dim=1)
            delta = F.softplus(dt @ layer.dt_projs_weight[k].T + layer.dt_projs_bias[k])  # (B, D)
            state = torch.exp(delta[..., None] * a[k]) * state + (delta * now)[..., None] * b[:, None]  # (B, D, N)
            if inside:
                assert (i, j) not in outputs, 'a cell belongs to one grid'
                outputs[i, j] = (state * c[:, None]).sum(-1) + d[k] * now
    y = torch.stack([torch.stack([outputs[i, j] for j in range(width)], 1) for i in range(height)], 1)  # (B, H, W, D)
    y = F.layer_norm(y, (layer.d_inner,), layer.out_norm.weight, layer.out_norm.bias, 1e-5)
    z = z.permute(0, 2, 3, 1)
    return torch.einsum('bhwd,cd->bchw', y * z * z.sigmoid(), layer.out_proj.weight)


def pictures(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def results(function, module, x):
    """The output, and the gradients of the input and of every parameter."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = function(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).sum().backward()
    return {'output': y.detach(), 'input': x.grad, **{n: p.grad.clone() for n, p in module.named_parameters()}}


def assert_same(got, wanted, tolerance):
    assert got.keys() == wanted.keys()
    for name, reference in wanted.items():
        assert got[name].dtype == reference.dtype and got[name].shape == reference.shape
        assert (got[name] - reference).abs().max() <= tolerance * max(reference.abs().max(), 1e-3), name


def make(step=2, backend='torch', **more):
    layer = ES2D(6, step=step, d_state=3, scan_backend=backend, **more)
    return randomised(layer, scale=0.5).double()


@pytest.mark.parametrize('step', [2, 3])
@pytest.mark.parametrize('size', SIZES)
def test_every_step_of_every_grid(size, step):
    layer, x = make(step), pictures(2, 6, *size)
    wanted = results(lambda x: written_out(layer, x), layer, x)
    assert_same(results(layer, layer, x), wanted, 1e-6)
    if size in ((4, 6), (5, 7)):
        assert all(wanted[name].any() for name in wanted), 'every path counts'


@pytest.mark.parametrize('size', [(5, 7), (7, 4)])
def test_the_default_backend(size):
    """In float32, which the C++ and Triton scans take."""
    layer, x = make(backend=None), pictures(2, 6, *size)
    wanted = results(lambda x: written_out(layer, x), layer, x)
    layer.float()
    got = results(lambda x: layer(x.float()).double(), layer, x)
    assert_same({name: value.double() for name, value in got.items()}, wanted, 1e-4)


@pytest.mark.parametrize(('size', 'differs'), [((5, 7), True), ((4, 5), True), ((4, 6), False)])
def test_padding_advances_the_state(size, differs):
    """The control: without the steps beyond the map, an odd side gives something else."""
    layer, x = make(), pictures(1, 6, *size)
    with torch.no_grad():
        layer.out_norm.weight.fill_(1.0)
        error = (written_out(layer, x, padded=False) - layer(x)).abs().max()
    assert (error > 1e-3) == differs


@pytest.mark.parametrize('size', [(5, 7), (6, 4)])
def test_the_general_layer_along_the_same_paths(size):
    """It projects each cell for every path, and gives the same."""
    layer, x = make(), pictures(2, 6, *size)
    general = SelectiveScan2D(6, paths=layer.paths, d_state=3, scan_backend='torch').double()
    general.load_state_dict(layer.state_dict(), strict=True)
    assert_same(results(layer, layer, x), results(general, general, x), 1e-6)


def test_one_scan_of_shared_tensors(monkeypatch):
    """No tensor has an axis for the paths but the parameters."""
    calls = []

    def note(*tensors, paths, **options):
        calls.append([tuple(tensor.shape) for tensor in tensors])
        return scan(*tensors, paths=paths, **options)

    scan = selective_scan_2d.selective_scan_paths
    monkeypatch.setattr(selective_scan_2d, 'selective_scan_paths', note)
    make()(pictures(2, 6, 5, 7))
    assert calls == [[(2, 12, 35), (2, 12, 35), (4, 12, 3), (2, 3, 35), (2, 3, 35), (4, 12)]]


def test_arguments_of_es2d():
    layer = MODELS.build({'type': 'mmvim.ES2D', 'embed_dims': 8, 'step': 1, 'd_state': 2, 'expand': 1, 'd_conv': 1})
    assert layer(torch.randn(1, 8, 3, 4)).shape == (1, 8, 3, 4) and layer.A_logs.shape == (8, 2)
    with pytest.raises(ValueError, match='step=0 must be a positive int'):
        ES2D(8, step=0)
    with pytest.raises(ValueError, match='d_conv=2 must be odd'):
        ES2D(8, d_conv=2)


def batch_norm(x, norm, training):
    """A batch norm of a map, from its definition; running statistics stay."""
    mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)) if training else norm_statistics(norm)
    scaled = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def norm_statistics(norm):
    return norm.running_mean, norm.running_var


def gate(x, layer):
    """The gate of an EVSS block, on a map."""
    mean = F.layer_norm(x.movedim(1, -1), (x.shape[1],), layer.norm.weight, layer.norm.bias, 1e-5).mean((1, 2))
    hidden = F.gelu(mean @ layer.global_reduce.weight.T + layer.global_reduce.bias)
    return x * (hidden @ layer.channel_select.weight.T + layer.channel_select.bias).sigmoid()[:, :, None, None]


def block_written_out(block, x):
    """An EVSS block on cells (B, H, W, C)."""
    first, norm, _, last = block.conv_branch
    y = F.layer_norm(x, x.shape[3:], block.norm.weight, block.norm.bias, 1e-5).movedim(3, 1)
    convolved = F.conv2d(y, first.weight, first.bias, padding=1, groups=y.shape[1])
    convolved = F.gelu(batch_norm(convolved, norm, norm.training))
    convolved = torch.einsum('bchw,dc->bdhw', convolved, last.weight[..., 0, 0]) + last.bias[:, None, None]
    scanned = written_out(block.op, y)
    return x + (gate(scanned, block.se) + gate(convolved, block.se)).movedim(1, 3)


def residual_written_out(block, x):
    """An inverted residual on a map."""

    def point(x, conv):
        bias = 0 if conv.bias is None else conv.bias[:, None, None]
        return torch.einsum('bchw,dc->bdhw', x, conv.weight[..., 0, 0]) + bias

    y = batch_norm(point(x, block.conv_pw[0]), block.conv_pw[1], block.training).clamp(min=0)
    y = F.conv2d(y, block.conv_dw[0].weight, padding=1, groups=y.shape[1])
    y = batch_norm(y, block.conv_dw[1], block.training).clamp(min=0)
    hidden = point(y.mean((2, 3), keepdim=True), block.se.conv_reduce).clamp(min=0)
    y = y * point(hidden, block.se.conv_expand).sigmoid()
    return x + batch_norm(point(y, block.conv_pw2[0]), block.conv_pw2[1], block.training)


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('batch', [1, 2])
def test_blocks(batch, mode):
    block = EVSSBlock(8, ES2D(8, d_state=3, scan_backend='torch'), 0.0)
    block = randomised(block, scale=0.5).double().train(mode == 'train')
    x = pictures(batch, 5, 7, 8)
    assert_same(results(block, block, x), results(lambda x: block_written_out(block, x), block, x), 1e-6)
    block = randomised(InvertedResidual(8, 0.0), scale=0.5).double().train(mode == 'train')
    x = pictures(batch, 8, 5, 7)
    assert_same(results(block, block, x), results(lambda x: residual_written_out(block, x), block, x), 1e-6)


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_a_stage_of_convolutions_between_cells(mode):
    """At batch 1, where maps made of cells may pass for another layout."""
    stage = ConvStage([InvertedResidual(8, 0.0), InvertedResidual(8, 0.0)], Merging(8))
    stage = randomised(stage, scale=0.5).double().train(mode == 'train')

    def slow(x):
        y = x.movedim(3, 1)
        for block in stage.blocks:
            y = residual_written_out(block, y)
        y = F.pad(y, (0, y.shape[3] % 2, 0, y.shape[2] % 2))
        y = torch.cat([y[:, :, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], 1).movedim(1, 3)
        merging = stage.downsample
        y = F.layer_norm(y, y.shape[3:], merging.norm.weight, merging.norm.bias, 1e-5)
        return y @ merging.reduction.weight.T

    x = pictures(1, 5, 7, 8)
    got = results(lambda x: stage.downsample(stage(x, with_cp=False)), stage, x)
    assert_same(got, results(slow, stage, x), 1e-6)


def test_names_of_the_published_files():
    names = {name.rpartition('.')[0] for name in EfficientVMamba(SMALL).state_dict()}
    parts = ('conv_pw.0', 'conv_pw.1', 'conv_dw.0', 'conv_dw.1', 'se.conv_reduce', 'se.conv_expand', 'conv_pw2.1')
    assert names >= {f'layers.{stage}.{part}' for stage in ('2.1', '2.2', '3.1') for part in parts}
    assert names >= {'layers.1.downsample.reduction', 'layers.2.4.reduction', 'layers.2.4.norm'}
    assert not any(name.startswith(('layers.2.3.', 'layers.3.2.', 'layers.3.3.')) for name in names)


def test_states_and_steps_reach_the_blocks():
    model = EfficientVMamba({**SMALL, 'd_state': 4, 'step': 3, 'ssm_ratio': 1})
    found = [module for module in model.modules() if isinstance(module, ES2D)]
    assert [(op.step, op.d_state, op.d_inner) for op in found] == [(3, 4, 8), (3, 4, 16)]


def test_statistics_of_frozen_stages_stay():
    model = EfficientVMamba(SMALL, frozen_stages=3, drop_path_rate=0.0).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    moved = {name.split('.')[1] for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {'3'}


@pytest.mark.parametrize('size', [(4, 4), (4, 100), (36, 4), (33, 47)])
def test_small_and_narrow_pictures(size):
    model = randomised(EfficientVMamba(SMALL)).eval()
    outputs = model(torch.randn(1, 3, *size))
    assert all(torch.isfinite(y).all() and y.is_contiguous() for y in outputs)
    sum(y.sum() for y in outputs).backward()


@pytest.mark.slow
@pytest.mark.parametrize('strict', [False, pytest.param(True, marks=pytest.mark.full)])
def test_export_with_dynamic_height_and_width(strict):
    """Odd maps included, whose grids are padded."""
    model = randomised(EfficientVMamba(SMALL), scale=0.1).eval()
    sides = {2: 4 * torch.export.Dim('rows', min=4, max=64), 3: 4 * torch.export.Dim('cols', min=4, max=64)}
    program = torch.export.export(model, (torch.randn(1, 3, *EXPORTED[0]),), dynamic_shapes={'x': sides}, strict=strict)
    for size in EXPORTED:
        picture = torch.randn(1, 3, *size)
        for got, wanted in zip(program.module()(picture), model(picture), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_graph_for_all_sizes():
    model = randomised(EfficientVMamba(SMALL), scale=0.1).eval()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for size in EXPORTED:
        picture = torch.randn(2, 3, *size)
        for got, wanted in zip(compiled(picture), model(picture), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
