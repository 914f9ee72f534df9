"""One compiled graph serves pictures of every size, in inference and in training."""

import math

import pytest
import torch
from families import FAMILY_CASES
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from mmvim.deploy import free_sizes
from mmvim.deploy.tracing import trace
from mmvim.models.backbones.plain_mamba import ConvStem
from mmvim.models.layers.window_attention import split_windows

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
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_inductor_serves_all_sizes(family, monkeypatch, tmp_path):
    """To the C++ that PyTorch's own compiler writes, which asks more of the sizes than a trace."""
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(inductor, 'compile_threads', 1)
    model = FAMILY_CASES[family].build_tiny().eval().requires_grad_(False)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in SIZES[:4]:
            x = torch.randn(2, 3, *size)
            for a, b in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
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


class Windows(nn.Module):
    """The windows of a map of a quarter of a picture's size, as convolutions make it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)

    def forward(self, x):
        return split_windows(self.stem(x), 14)[0]  # (B * windows, 196, 8)


@pytest.mark.parametrize(
    ('model', 'axes'), [(ConvStem(3, 8, 4, 1), (1, 2)), (Windows(), (0,))], ids=['cells', 'windows']
)
def test_sizes_are_products_of_quotients(model, axes):
    """And no sums: products of those PyTorch's compiler does not divide again, so that it cannot order strides."""
    program = trace(model, None)
    (output,) = program.graph.output_node().args[0]
    size = math.prod(output.meta['val'].shape[axis].node.expr for axis in axes)
    assert size.free_symbols and not size.expand().is_Add, size


def test_the_setting_is_put_back():
    from torch.fx.experimental import _config

    before = _config.backed_size_oblivious
    with pytest.raises(KeyError), free_sizes():
        assert _config.backed_size_oblivious
        raise KeyError
    assert _config.backed_size_oblivious == before
