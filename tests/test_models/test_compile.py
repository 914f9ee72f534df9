"""torch.compile takes the backbones in one graph."""

import pytest
import torch

from mmvim.models.backbones import MambaVision, Vim


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
