"""Mixed-precision training of every family, where there is no GPU: autocast on a CPU, and a gradient scaler."""

import pytest
import torch
from families import FAMILY_CASES
from short_training import train

# In bfloat16 these take seconds.
LONG = ('efficientvmamba', 'localvmamba', 'msvmamba')


@pytest.mark.parametrize(
    ('family', 'precision', 'tolerance'),
    [
        pytest.param(family, precision, tolerance, marks=[pytest.mark.full] * (family in LONG and tolerance > 0.001))
        for family in FAMILY_CASES
        for precision, tolerance in ((torch.bfloat16, 0.01), (torch.float16, 0.001))
    ],
)
def test_losses_follow_those_of_float32(family, precision, tolerance):
    options = {
        'steps': 4,
        'cells': 16 if precision == torch.bfloat16 and 'depths' in FAMILY_CASES[family].tiny['arch'] else 4,
        # Its batch norms over few values magnify what is rounded a hundredfold within these steps.
        'batch_statistics': family != 'efficientvmamba',
    }
    exact, run = train(family, **options), train(family, precision=precision, **options)
    assert exact.losses[-1] < exact.losses[0], 'nothing is learned'
    assert run.losses == pytest.approx(exact.losses, rel=tolerance)
    assert run.losses != exact.losses, 'autocast must reach the model, or nothing is tested'
    assert run.skipped == 0
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in run.model.parameters())
