"""One compiled graph serves pictures of every size, in inference and in training."""

import pytest
import torch
from families import FAMILY_CASES
from torch._dynamo.utils import counters

from mmvim.deploy import free_sizes

pytestmark = pytest.mark.slow  # compilations

# sides of more than 64 pixels: smaller ones leave MSVMamba a coarsest map of one column, which PyTorch traces anew
SIZES = ((104, 136), (96, 72), (72, 96), (128, 160), (72, 88), (81, 107), (128, 128), (200, 72), (97, 73), (80, 112))


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_one_graph_for_ten_sizes(family):
    model = FAMILY_CASES[family].build_tiny().eval()
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='aot_eager')
    with torch.no_grad(), free_sizes():
        for size in SIZES:
            x = torch.randn(2, 3, *size)
            for a, b in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert counters['stats']['unique_graphs'] == 1


@pytest.mark.full
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_one_graph_for_ten_sizes_in_training(family):
    model = FAMILY_CASES[family].build_tiny(drop_path_rate=0.0).train()
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='aot_eager')
    with free_sizes():
        for size in SIZES:
            x, gradients = torch.randn(2, 3, *size), []
            for run in (model, compiled):
                model.zero_grad()
                sum(y.square().mean() for y in run(x)).backward()
                gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
            for a, b in zip(*gradients, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert counters['stats']['unique_graphs'] == 1


@pytest.mark.full
def test_windows_that_fit_and_windows_that_do_not():
    """One graph of AOTAutograd too, which looks at the layout of what is cut off."""
    model = FAMILY_CASES['mambavision'].build_tiny().eval()
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='aot_eager')
    with torch.no_grad():
        for size in ((480, 500), (448, 448), (448, 500), (256, 320)):
            x = torch.randn(2, 3, *size)
            for a, b in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert counters['stats']['unique_graphs'] == 1


def test_the_setting_is_put_back():
    from torch.fx.experimental import _config

    before = _config.backed_size_oblivious
    with pytest.raises(KeyError), free_sizes():
        assert _config.backed_size_oblivious
        raise KeyError
    assert _config.backed_size_oblivious == before
