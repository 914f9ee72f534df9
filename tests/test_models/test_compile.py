"""torch.compile takes the backbones in one graph."""

import pytest
import torch
from families import FAMILY_CASES

pytestmark = pytest.mark.slow  # compilations


@pytest.mark.covering(1)
@pytest.mark.parametrize('family', FAMILY_CASES)
@pytest.mark.parametrize('backend', [None, 'torch'], ids=['auto', 'torch'])
def test_one_graph(family, backend):
    model = FAMILY_CASES[family].build_tiny(scan_backend=backend).eval()
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
