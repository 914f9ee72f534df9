"""The backbones compute what the publishers' own models compute, output and every gradient.

`tests/golden` holds recordings of those models on stand-in weights; see `synthetic.py` there.
"""

import numpy as np
import pytest
import torch
from families import FAMILY_CASES, each
from golden import synthetic
from golden.models import image, output_error, tensors

pytestmark = pytest.mark.slow  # whole published models

GOLDEN = each('golden')
RUNS = [(family, name, index) for family, name in GOLDEN for index in range(len(synthetic.load(name)['runs']))]


def load(family, name):
    """The recorded case, the model with its weights, and the model's name for each of the publisher's tensors."""
    case = FAMILY_CASES[family].golden[name]
    model = case.build()
    state = {case.rename(key): value for key, value in tensors(name).items()}
    state.pop(None, None)
    model.load_state_dict(state, strict=True)
    return synthetic.load(name), model.eval(), case.rename


def relative(value, recorded, scale):
    return abs(value - recorded) / scale


def test_every_recording_belongs_to_a_family():
    assert sorted(name for _, name in GOLDEN) == synthetic.names()
    assert all(name.startswith(f'{family}_') for family, name in GOLDEN)


@pytest.mark.parametrize(('family', 'name', 'index'), RUNS)
def test_outputs_and_gradients(family, name, index):
    case, model, rename = load(family, name)
    golden, run = FAMILY_CASES[family].golden[name], case['runs'][index]
    tolerance = golden.tolerance
    outputs = model(image(run))
    assert len(outputs) == len(run['outputs'])
    for output, recorded in zip(outputs, run['outputs'], strict=True):
        assert output_error(output, recorded) < tolerance
        assert output.mean().item() == pytest.approx(recorded['mean'], abs=tolerance * recorded['std'])
        assert output.std().item() == pytest.approx(recorded['std'], rel=1e-4)
    if 'grads' not in run:
        return
    loss = sum(
        (torch.from_numpy(synthetic.cotangent(run['key'], level, output.shape)) * output).mean()
        for level, output in enumerate(outputs)
    )
    loss.backward()
    assert loss.item() == pytest.approx(run['loss'], rel=1e-3, abs=1e-6)
    parameters = dict(model.named_parameters())
    seen = set()
    for key, (norm, projection) in run['grads'].items():
        grad = parameters[rename(key)].grad.double().numpy()
        seen.add(rename(key))
        assert relative(np.linalg.norm(grad), norm, norm) < golden.gradient_tolerance, key
        # A projection is a sum of many signs: its own size says nothing, the norm of the gradient is its scale.
        got = float((grad * synthetic.probe(key, grad.shape)).sum())
        assert relative(got, projection, norm) < golden.gradient_tolerance * 2, key
    assert seen == set(parameters), 'a parameter got no recorded gradient'


@pytest.mark.parametrize(('family', 'name'), GOLDEN)
def test_a_wrong_scan_is_seen(family, name):
    """With A scaled by 1.1 the comparison above must fail, or it would not see the scan."""
    case, model, _ = load(family, name)
    FAMILY_CASES[family].spoil(model)
    run = case['runs'][-1]
    with torch.no_grad():
        outputs = model(image(run))
    errors = [output_error(output, recorded) for output, recorded in zip(outputs, run['outputs'], strict=True)]
    assert max(errors) > 2 * FAMILY_CASES[family].golden[name].tolerance
