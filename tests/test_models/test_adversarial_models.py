"""Every family on pictures and weights that are meant to make NaN, in float32 and under autocast: none comes out."""

import pytest
import torch
from families import FAMILY_CASES
from torch import Tensor, nn

from mmvim.models.backbones.plain import PlainBackbone

PRECISIONS = pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16, torch.float16], ids=str)
FAMILIES = pytest.mark.parametrize('family', FAMILY_CASES)
PICTURES = {
    'black': torch.zeros_like,
    'constant': torch.ones_like,
    'constant 1e4': lambda x: torch.full_like(x, 1e4),
    'values of 1e4': lambda x: x * 1e4,
    'one pixel of 1e4': lambda x: torch.zeros_like(x).index_fill_(-1, torch.tensor([5]), 1e4),
}
# Parts of the names of parameters, with what is put there.
WEIGHTS = {
    'all zero': {'': 0.0},
    'large decay': {'A_log': 10.0, 'A_b_log': 10.0, 'spatial_decay': 1e4},
    'no decay': {'A_log': -30.0, 'A_b_log': -30.0, 'spatial_decay': 0.0},
    'steps of 1e4': {'dt_proj.bias': 1e4, 'dt_proj_': 1e4, 'dt_projs_bias': 1e4, 'spatial_first': 1e4},
    'steps of nothing': {'dt_proj.bias': -1e4, 'dt_proj_': -1e4, 'dt_projs_bias': -1e4, 'spatial_first': -1e4},
}


def put(model: nn.Module, changes: dict[str, float]) -> None:
    """Fill the parameters whose names have these parts; matrices of a layer with a bias keep theirs."""
    filled = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            found = [value for part, value in changes.items() if part in name]
            if found and not (name.endswith('.weight') and changes != WEIGHTS['all zero']):
                parameter.fill_(found[0])
                filled += 1
    assert filled, f'no parameter is called {" or ".join(changes)}'


def assert_numbers(model: nn.Module, outputs: tuple[Tensor, ...], precision: torch.dtype) -> None:
    """Outputs and the gradients of their mean square are all finite; in float16 at a scale that a scaler may find.

    A batch norm of equal values magnifies a gradient 316 times, and several in a row more than float16 can hold.
    """
    for index, output in enumerate(outputs):
        assert output.isfinite().all(), f'output {index}'
    loss = sum(output.float().square().mean() for output in outputs)
    for scale in (1.0, 2.0**-6, 2.0**-12, 2.0**-18) if precision == torch.float16 else (1.0,):
        model.zero_grad()
        (loss * scale).backward(retain_graph=True)
        wrong = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if not wrong:
            return
    raise AssertionError(f'not finite: {wrong}')


def run(model: nn.Module, picture: Tensor, precision: torch.dtype) -> None:
    with torch.autocast('cpu', precision, enabled=precision != torch.float32):
        outputs = model(picture)
    assert_numbers(model, outputs, precision)


def build(family: str) -> tuple[nn.Module, Tensor]:
    """The smallest model of a family, and two pictures.

    Of 64 pixels: with 16 a pyramid's last map would have one cell, and the gradient that PyTorch gives a convolution of
    it in bfloat16 on a CPU reads memory that nobody has written.
    """
    return FAMILY_CASES[family].build_tiny().train(), torch.randn(2, 3, 64, 64)


@pytest.mark.covering(2)
@PRECISIONS
@FAMILIES
@pytest.mark.parametrize('case', PICTURES)
def test_pictures(case, family, precision):
    model, pictures = build(family)
    run(model, PICTURES[case](pictures), precision)


@pytest.mark.covering(2)
@PRECISIONS
@FAMILIES
@pytest.mark.parametrize('case', WEIGHTS)
def test_weights(case, family, precision):
    model, pictures = build(family)
    put(model, WEIGHTS[case])
    run(model, pictures, precision)


@pytest.mark.full
@PRECISIONS
@FAMILIES
def test_100_000_tokens(family, precision):
    """At the first stage of a pyramid; a plain backbone's blocks get them without a picture."""
    model, _ = build(family)
    with torch.autocast('cpu', precision, enabled=precision != torch.float32):
        if isinstance(model, PlainBackbone):
            tokens = torch.randn(1, 317 * 317, model.embed_dims, requires_grad=True)
            outputs = (model.run_blocks(tokens, (317, 317), 0, model.depth),)
        else:
            outputs = model(torch.randn(1, 3, 4 * 317, 4 * 317))
    assert_numbers(model, outputs, precision)
