"""The backbones compute what the publishers' own models compute, output and every gradient.

`tests/golden` holds recordings of those models on stand-in weights; see `synthetic.py` there.
"""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmvim.models import MambaVision, Vim

GOLDEN = Path(__file__).parents[1] / 'golden'
_spec = importlib.util.spec_from_file_location('golden_synthetic', GOLDEN / 'synthetic.py')
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

OUTPUT_TOLERANCE = 5e-5  # of an output's standard deviation
GRADIENT_TOLERANCE = 1e-3  # relative, of a gradient's norm and of its projection

ALL_FOUR = (5, 11, 17, 23)


class Classifier(nn.Module):
    """Backbone and linear head under the publishers' names."""

    def __init__(self, backbone, features):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(features, 1000)

    def forward(self, x):
        y = self.backbone(x)[-1]
        return (self.head(y if y.ndim == 2 else y.mean((2, 3))),)


class Pyramid(nn.Module):
    """Vim and mmseg's Feature2Pyramid, which stands for the `fpn1..4` inside the publishers' dense backbone."""

    def __init__(self, backbone):
        super().__init__()
        from mmseg.models.necks import Feature2Pyramid

        self.backbone = backbone
        self.neck = Feature2Pyramid(backbone.embed_dims, rescales=[4, 2, 1, 0.5], norm_cfg={'type': 'BN'})

    def forward(self, x):
        return self.neck(self.backbone(x))


def build(name):
    """The model of a case, and its name for each of the publisher's tensors (None for one it rightly lacks)."""
    if name == 'vim_tiny_cls':
        return Classifier(Vim('tiny', cls_token='middle', out_type='cls_token', final_norm=True), 192), _classifier_name
    if name == 'vim_tiny_det':
        return Vim('tiny', img_size=256, rope=True, rope_residual=True), lambda key: None if 'norm_f' in key else key
    if name == 'vim_tiny_seg':
        return Pyramid(Vim('tiny', img_size=256, feature='mixer', out_indices=ALL_FOUR)), _pyramid_name
    if name == 'vim_small_seg':
        backbone = Vim('small', rope=True, rope_residual=True, feature='mixer', out_indices=ALL_FOUR)
        return Pyramid(backbone), _pyramid_name
    if name == 'vim_small_seg_residual':
        return Pyramid(Vim('small', rope=True, rope_residual=True, out_indices=ALL_FOUR)), _pyramid_name
    if name == 'mambavision_tiny_cls':
        return Classifier(MambaVision('tiny', out_indices=3, out_norm=False, final_norm=True), 640), _classifier_name
    return MambaVision('tiny', window_sizes=(8, 8, 64, 32)), lambda key: key


def _classifier_name(key):
    return key if key.startswith('head.') else 'backbone.' + key


def _pyramid_name(key):
    if key == 'norm_f.weight':
        return None  # in the file, but the published dense model never applies it
    key = key.replace('fpn1.', 'neck.upsample_4x.').replace('fpn2.', 'neck.upsample_2x.')
    return key if key.startswith('neck.') else 'backbone.' + key


def load(name):
    case = synthetic.load(name)
    model, rename = build(name)
    state = {rename(key): torch.from_numpy(np.asarray(value)) for key, value in synthetic.checkpoint(case).items()}
    state.pop(None, None)
    model.load_state_dict(state, strict=True)
    return case, model.eval(), rename


def output_error(output, recorded):
    assert list(output.shape) == recorded['shape']
    samples = synthetic.samples(output.detach().numpy())
    return np.abs(samples - np.asarray(recorded['samples'])).max() / recorded['std']


def relative(value, recorded, scale):
    return abs(value - recorded) / scale


RUNS = [
    (name, index)
    for name in sorted(path.stem for path in GOLDEN.glob('*.json'))
    for index in range(len(synthetic.load(name)['runs']))
]


@pytest.mark.parametrize(('name', 'index'), RUNS)
def test_outputs_and_gradients(name, index):
    case, model, rename = load(name)
    run = case['runs'][index]
    outputs = model(torch.from_numpy(synthetic.image(run['key'], run['input'])))
    assert len(outputs) == len(run['outputs'])
    for output, recorded in zip(outputs, run['outputs'], strict=True):
        assert output_error(output, recorded) < OUTPUT_TOLERANCE
        assert output.mean().item() == pytest.approx(recorded['mean'], abs=OUTPUT_TOLERANCE * recorded['std'])
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
        assert relative(np.linalg.norm(grad), norm, norm) < GRADIENT_TOLERANCE, key
        # A projection is a sum of many signs: its own size says nothing, the norm of the gradient is its scale.
        got = float((grad * synthetic.probe(key, grad.shape)).sum())
        assert relative(got, projection, norm) < GRADIENT_TOLERANCE * 2, key
    assert seen == set(parameters), 'a parameter got no recorded gradient'


@pytest.mark.parametrize('name', ['vim_tiny_seg', 'vim_tiny_cls', 'mambavision_tiny_seg', 'mambavision_tiny_cls'])
def test_a_wrong_scan_is_seen(name):
    """With A scaled by 1.1 the comparison above must fail, or it would not see the scan."""
    case, model, _ = load(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(('A_log', 'A_b_log')):
                parameter += math.log(1.1)
    run = case['runs'][-1]
    with torch.no_grad():
        outputs = model(torch.from_numpy(synthetic.image(run['key'], run['input'])))
    errors = [output_error(output, recorded) for output, recorded in zip(outputs, run['outputs'], strict=True)]
    assert max(errors) > 2 * OUTPUT_TOLERANCE
