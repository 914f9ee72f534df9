"""Training goes the same way on every backend: the losses of a short one, and where a longer one ends."""

import pytest
import torch
from families import FAMILY_CASES
from short_training import train

from mmvim.ops import backends

QUICK = ('vim', 'vrwkv')  # one of each op; the others are in full runs
FAMILIES = pytest.mark.parametrize(
    'family', [pytest.param(name, marks=[pytest.mark.full] * (name not in QUICK)) for name in FAMILY_CASES]
)
HERE = [name for name in ('torch', 'native') if backends()[name][0]]


def options_of(family):
    """EfficientVMamba's batch norms over eight values magnify a ten-millionth to several per cent, on one backend."""
    return {'batch_statistics': family != 'efficientvmamba'}


@pytest.mark.slow
@FAMILIES
def test_losses_of_every_backend_are_those_of_the_definition(family):
    expected = train(family, 20, 'reference', **options_of(family)).losses
    assert expected[-1] < 0.8 * expected[0], 'little is learned'
    for backend in HERE:
        assert train(family, 20, backend, **options_of(family)).losses == pytest.approx(expected, rel=1e-5), backend


@pytest.mark.full
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_losses_in_bfloat16_stay_in_a_band(family):
    """Around those of float32, for as many steps."""
    options = {**options_of(family), 'cells': 16 if 'depths' in FAMILY_CASES[family].tiny['arch'] else 4}
    expected = train(family, 20, 'torch', **options).losses
    for backend in HERE:
        rounded = train(family, 20, backend, torch.bfloat16, **options).losses
        assert rounded == pytest.approx(expected, rel=0.02), backend


@pytest.mark.full
@pytest.mark.skipif(HERE != ['torch', 'native'], reason='there is no second backend here')
@pytest.mark.parametrize('family', FAMILY_CASES)
def test_a_longer_training_ends_where_chance_may_lead_it(family):
    """On another backend no further away than trainings on one, whose weights begin a ten-millionth apart."""
    plain, native = (train(family, 200, backend).losses for backend in HERE)
    moved = [train(family, 200, 'torch', perturbed=seed).losses for seed in (1, 2, 3)]
    end, *ends = (sum(losses[-10:]) / 10 for losses in (native, plain, *moved))
    assert end < native[0] / 2
    spread = max(ends) - min(ends)
    print(f'{family}: native {end:.7f}, plain {ends[0]:.7f}, perturbed {", ".join(f"{x:.7f}" for x in ends[1:])}')
    assert min(ends) - spread <= end <= max(ends) + spread
