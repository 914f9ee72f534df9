"""Recorded cases through files: every tensor accounted for, outputs those of the publishers' models."""

import math
from collections import OrderedDict

import pytest
import torch
from families import FAMILY_CASES, each
from golden import synthetic
from golden.models import image, output_error
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from published_files import ALL
from torch import nn

from mmvim import checkpoints
from mmvim.checkpoints.families import family_for

pytestmark = pytest.mark.slow  # whole published models

GOLDEN = each('golden')
CLASSIFIERS = [(family, name) for family, name in GOLDEN if FAMILY_CASES[family].golden[name].classifier]


def arch_of(family, name):
    """The architecture that a case says, else the second word of its name."""
    return FAMILY_CASES[family].golden[name].arch or name.removeprefix(f'{family}_').split('_')[0]


def build(found):
    """The model of a file, from the config dicts that were read off it."""
    parts = OrderedDict(backbone=MODELS.build(found.backbone))
    for name, config in (('neck', found.neck), *found.heads.items()):
        if config is not None:
            parts[name] = MODELS.build(config)
    model = revert_sync_batchnorm(nn.Sequential(parts))
    model.load_state_dict(found.state_dict, strict=True)
    return model.eval()


@pytest.mark.covering(1)
@pytest.mark.parametrize('container', ALL)
@pytest.mark.parametrize(('family', 'name'), GOLDEN)
def test_accounting(family, name, container, tensors, write):
    case, weights = FAMILY_CASES[family].golden[name], tensors(name)
    file = write(weights, container)
    chosen = 'model_ema' if container == 'model_ema' else None
    found = checkpoints.read(file, key=chosen, **case.options)
    report = found.report
    dropped = {f'backbone.{key}' for key in weights if case.rename(key) is None}  # what the models never use
    assert set(report.dropped) == dropped and all(report.dropped.values())
    assert not (report.resized or report.fresh or report.missing or report.mismatched or report.unexpected)
    assert len(report.used) + len(dropped) == len(weights)
    records = {f'backbone.{name}' for name in family_for(found.layout).records} & set(found.state_dict)  # mmvim's own
    assert set(report.assumed) == records and set(report.used) == set(found.state_dict) - records
    assert (found.family, found.arch) == (family, arch_of(family, name))
    given = checkpoints.load_file(file)
    given = given.get(chosen or 'state_dict', given.get('model', given))
    for key in report.used:
        assert torch.equal(found.state_dict[key], given[found.names[key]]), key
    assert {*map(found.names.get, report.used), *found.dropped} == set(given)


@pytest.mark.parametrize(('family', 'name'), GOLDEN)
def test_outputs(family, name, tensors, write):
    case = FAMILY_CASES[family].golden[name]
    model = build(checkpoints.read(write(tensors(name)), **case.options))
    run = min(synthetic.load(name)['runs'], key=lambda run: math.prod(run['input']))
    with torch.no_grad():
        outputs = model(image(run))
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    assert len(outputs) == len(run['outputs'])
    for output, recorded in zip(outputs, run['outputs'], strict=True):
        assert output_error(output, recorded) < 1e-4


@pytest.mark.parametrize('container', ['model', 'safetensors', 'state_dict'])
@pytest.mark.parametrize(('family', 'name'), CLASSIFIERS)
def test_init_cfg_fills_a_dense_backbone(family, name, container, tensors, write):
    """``type='Pretrained'``, the one way."""
    case, given = FAMILY_CASES[family], tensors(name)
    init_cfg = {'type': 'Pretrained', 'checkpoint': write(given, container)}
    weights = {case.golden[name].rename(key): value for key, value in given.items()}
    backbone = case.backbone(arch_of(family, name), init_cfg=init_cfg)
    backbone.init_weights()
    loaded = {key: value for key, value in backbone.state_dict().items() if not key.startswith(case.not_copied)}
    assert len(loaded) > len(weights) / 2
    for key, value in loaded.items():
        assert torch.equal(value, weights[f'backbone.{key}']), key


def test_options_of_vim_change_the_config_only(tensors, write):
    file = write(tensors('vim_tiny_cls'))
    dense = checkpoints.read(file, task='dense')
    assert dense.backbone['feature'] == 'mixer' and dense.backbone['out_indices'] == (5, 11, 17, 23)
    assert set(dense.report.dropped) == {
        'backbone.cls_token',
        'backbone.norm_f.weight',
        'head.fc.weight',
        'head.fc.bias',
    }
    other = checkpoints.read(file, task='dense', feature='residual', rope=True, out_indices=(11, 23))
    assert (other.backbone['feature'], other.backbone['rope'], other.backbone['out_indices']) == (
        'residual',
        True,
        (11, 23),
    )
    assert all(torch.equal(value, dense.state_dict[name]) for name, value in other.state_dict.items())


def test_options_of_mambavision_change_the_config_only(tensors, write):
    file = write(tensors('mambavision_tiny_cls'))
    assert 'window_sizes' not in checkpoints.read(file).backbone
    assert checkpoints.read(file, img_size=512).backbone['window_sizes'] == (8, 8, 32, 16)
    dense = checkpoints.read(file, task='dense')
    assert dense.backbone['window_sizes'] == (8, 8, 64, 32)
    assert len(dense.report.fresh) == 8 and all('outnorm' in name for name in dense.report.fresh)
    assert checkpoints.read(file, task='dense', window_sizes=(8, 8, 32, 16)).backbone['window_sizes'] == (8, 8, 32, 16)
    with pytest.raises(checkpoints.CheckpointError, match="MambaVision has no option 'rope'"):
        checkpoints.read(file, rope=True)
