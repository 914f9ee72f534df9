"""Vim's own ways: class tokens, positions that stay on their cell, RoPE, streams, graphs for every size."""

import pytest
import torch

from mmvim.models import Vim
from mmvim.models.layers.pos_embed import insert_rows, resize_grid, rope_tables, rotate, split_rows
from mmvim.ops import backends

SMALL = {'embed_dims': 16, 'depth': 2}


def raster(h, w, dims=16):
    """Embeddings (1, h * w, dims) that tell the place of their cell: row + 0.5 and column + 0.5 over the side."""
    rows = (torch.arange(h) + 0.5) / h
    cols = (torch.arange(w) + 0.5) / w
    grid = torch.zeros(h, w, dims)
    grid[..., 0], grid[..., 1] = rows[:, None], cols
    return grid.reshape(1, h * w, dims)


@pytest.mark.parametrize(('h', 'w'), [(32, 32), (20, 35), (14, 14)])
def test_resized_positions_stay_on_their_cell(h, w):
    grid = resize_grid(raster(14, 14), (14, 14), (h, w)).reshape(h, w, 16)
    inner = (slice(4, -4), slice(4, -4))  # away from the border the bicubic filter bends a line by a tenth of a cell
    torch.testing.assert_close(grid[inner], raster(h, w).reshape(h, w, 16)[inner], atol=0.15 / max(h, w), rtol=0)
    assert (grid[1:, :, 0] >= grid[:-1, :, 0] - 1e-4).all() and (grid[:, 1:, 1] >= grid[:, :-1, 1] - 1e-4).all()


@pytest.mark.parametrize(('kind', 'rows'), [('none', ()), ('middle', (98,)), ('head', (0,)), ('double', (0, 197))])
def test_class_rows_and_the_sequence(kind, rows):
    model = Vim(SMALL, cls_token=kind)
    assert model.class_rows(196) == rows and model.pos_embed.shape[1] == 196 + len(rows)
    tokens = torch.arange(5.0).reshape(1, 5, 1).expand(1, 5, 16)
    extra = [torch.full((1, 1, 16), 90.0 + i) for i in range(len(rows))]
    placed = insert_rows(tokens, extra, model.class_rows(5))
    assert (
        placed[0, :, 0].tolist()
        == {
            'none': [0, 1, 2, 3, 4],
            'middle': [0, 1, 90, 2, 3, 4],
            'head': [90, 0, 1, 2, 3, 4],
            'double': [90, 0, 1, 2, 3, 4, 91],
        }[kind]
    )
    grid, classes = split_rows(placed, model.class_rows(5))
    assert torch.equal(grid, tokens) and classes.shape[1] == len(rows)


def test_a_published_classifier_gives_each_cell_its_own_position():
    """197 rows, the class token's at 98: the dense model must lose that row, not row 0, and not shift the rest."""
    published = Vim(SMALL, cls_token='middle', final_norm=True).state_dict()
    cells = raster(14, 14)
    published['pos_embed'] = insert_rows(cells, [torch.full((1, 1, 16), 99.0)], (98,))
    dense = Vim(SMALL, final_norm=True)
    dense.load_state_dict(dict(published))
    assert torch.equal(dense.pos_embed, cells)
    larger = Vim(SMALL, img_size=(320, 560), final_norm=True)
    larger.load_state_dict(dict(published))
    torch.testing.assert_close(larger.pos_embed, resize_grid(cells, (14, 14), (20, 35)))
    classifier = Vim(SMALL, img_size=448, cls_token='middle', final_norm=True)
    classifier.load_state_dict(dict(published))
    assert (classifier.pos_embed[0, 28 * 14] == 99).all()


def test_positions_that_are_no_square_are_refused():
    state = Vim(SMALL, img_size=(64, 96)).state_dict()
    del state['pos_embed_grid']
    with pytest.raises(ValueError, match='24 positions, and does not say of which grid'):
        Vim(SMALL).load_state_dict(state)


def test_an_online_resize_equals_a_resize_at_loading():
    small = Vim(SMALL, img_size=64).eval()
    large = Vim(SMALL, img_size=(96, 160)).eval()
    large.load_state_dict(small.state_dict())
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(small(x)[0], large(x)[0])


def test_rope_keeps_lengths_and_leaves_class_tokens_alone():
    cos, sin = rope_tables(3, 5, 16, 14, class_rows=(7,))
    x = torch.randn(2, 16, 16)
    y = rotate(x, cos, sin)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, 7], x[:, 7]) and torch.equal(y[:, 0], x[:, 0])  # the corner cell has angle 0
    # The product of two rotated tokens depends on their distance alone, for the row's and the column's channels.
    q, k = torch.randn(16), torch.randn(16)
    turned = [rotate(v.expand(1, 16, 16), cos, sin)[0].reshape(16, 16) for v in (q, k)]
    place = {(r, c): r * 5 + c + (r * 5 + c >= 7) for r in range(3) for c in range(5)}
    first = turned[0][place[0, 1]] @ turned[1][place[1, 3]]
    second = turned[0][place[1, 2]] @ turned[1][place[2, 4]]
    torch.testing.assert_close(first, second)


def test_both_directions_matter():
    """The last patch must reach the first cell's features, and the first patch the last cell's."""
    model = Vim(SMALL, img_size=64, pos_embed=False).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)[0]
        for corner, far in (((0, 0), (-1, -1)), ((-1, -1), (0, 0))):
            changed = x.clone()
            rows, cols = (slice(0, 16) if side == 0 else slice(48, 64) for side in corner)
            changed[:, :, rows, cols] += 5
            assert (model(changed)[0] - before)[0, :, far[0], far[1]].abs().max() > 1e-7


def test_class_token_output():
    model = Vim(SMALL, img_size=64, cls_token='middle', out_type='cls_token', final_norm=True)
    assert model(torch.randn(2, 3, 64, 64))[0].shape == (2, 16)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'cls_token': 'tail'}, "cls_token='tail' is not one of"),
        ({'feature': 'stream'}, "feature='stream' is not one of"),
        ({'out_type': 'cls_token'}, 'needs a class token'),
        ({'rope_residual': True}, 'needs rope=True'),
        ({'stride': 20}, 'stride=20 must lie between 1 and patch_size=16'),
        ({'out_indices': (1, 0)}, 'must ascend'),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Vim(SMALL, **arguments)


def test_half_precision_weights_run_outside_autocast():
    model = Vim(SMALL, img_size=64).to(torch.bfloat16).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16))[0]
    assert output.dtype == torch.bfloat16 and torch.isfinite(output.float()).all()


# The plain backend unrolls the sequence, so its graphs are of one size.
native = pytest.mark.skipif(not backends()['native'][0], reason=f'native: {backends()["native"][1]}')
# More than 32 tokens everywhere: below that the scan's boundary states have another shape.
SIZES = [(96, 160), (112, 112), (128, 96)]  # the second is the size of the stored positions


def vim_of_any_size(kind):
    torch.manual_seed(0)
    arch = {'embed_dims': 16, 'depth': 1, 'd_state': 4}
    return Vim(arch, img_size=112, cls_token=kind, rope=kind == 'middle', scan_backend='native').eval()


@pytest.mark.slow
@native
def test_one_graph_for_all_sizes():
    """No size is compiled again, the stored one included, and none is interpolated."""
    model = vim_of_any_size('middle')
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for size in SIZES:
        picture = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(picture)[0], model(picture)[0], rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
    assert not [node for node in graphs[0].graph.nodes if 'interpolate' in str(node.target)]


@pytest.mark.slow
@native
@pytest.mark.parametrize(('kind', 'strict'), [('none', False), ('middle', True)])
def test_export_with_dynamic_height_and_width(kind, strict):
    model = vim_of_any_size(kind)
    sides = {2: 16 * torch.export.Dim('rows', min=4, max=64), 3: 16 * torch.export.Dim('cols', min=4, max=64)}
    program = torch.export.export(
        model, (torch.randn(1, 3, *SIZES[0]),), dynamic_shapes={'x': sides}, strict=strict
    ).run_decompositions({})
    targets = {str(node.target) for node in program.graph.nodes}
    assert not [target for target in targets if 'upsample' in target or 'interpolate' in target]
    assert len(program.graph_module._modules) == 0, 'one flat graph'
    for size in SIZES:
        picture = torch.randn(1, 3, *size)
        torch.testing.assert_close(program.module()(picture)[0], model(picture)[0], rtol=1e-4, atol=1e-5)
