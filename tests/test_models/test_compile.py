"""torch.compile takes the backbones in one graph."""

import pytest
import torch

from mmvim.models.backbones import MambaVision, Vim
from mmvim.ops import backends


@pytest.mark.parametrize('name', ['vim', 'mambavision'])
@pytest.mark.parametrize('backend', [None, 'torch'], ids=['auto', 'torch'])
def test_one_graph(name, backend):
    torch.manual_seed(0)
    if name == 'vim':
        model = Vim(
            arch={'embed_dims': 32, 'depth': 2, 'd_state': 4}, img_size=32, out_indices=(0, 1), scan_backend=backend
        )
    else:
        model = MambaVision(
            arch={
                'depths': (1, 1, 2, 2),
                'dim': 16,
                'in_dim': 8,
                'num_heads': (1, 1, 2, 2),
                'window_sizes': (8, 8, 2, 2),
            },
            scan_backend=backend,
        )
    model.eval()
    picture = torch.randn(1, 3, 64, 64)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    found = []
    for run in (model, compiled):
        model.zero_grad()
        outputs = run(picture)
        sum(y.square().mean() for y in outputs).backward()
        found.append([*outputs, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 20
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# The plain backend unrolls the sequence, so its graphs are of one size.
native = pytest.mark.skipif(not backends()['native'][0], reason=f'native: {backends()["native"][1]}')
# More than 32 tokens everywhere: below that the scan's boundary states have another shape.
SIZES = [(96, 160), (112, 112), (128, 96)]  # the second is the size of the stored positions


def vim_of_any_size(kind):
    torch.manual_seed(0)
    arch = {'embed_dims': 16, 'depth': 1, 'd_state': 4}
    return Vim(arch, img_size=112, cls_token=kind, rope=kind == 'middle', scan_backend='native').eval()


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
