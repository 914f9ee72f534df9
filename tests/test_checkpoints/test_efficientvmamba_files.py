"""EfficientVMamba's files: prefixes, the two widths of S, and variants that are named."""

import pytest
import torch
from family_cases.base import randomised
from family_cases.efficientvmamba import SMALL, published

from mmvim import checkpoints
from mmvim.checkpoints import CheckpointError
from mmvim.models import EfficientVMamba, VMamba


@pytest.mark.parametrize('bare', [False, True])
def test_names_of_a_classifier(bare, write):
    """With ``classifier.`` before norm and head, or without."""
    weights = {f'module.module.{name}': value for name, value in published().items()}
    if bare:
        weights = {name.replace('classifier.', ''): value for name, value in weights.items()}
    file = write({'state_dict': weights, 'epoch': 299}, 'bare', 'efficient_vmamba_tiny.ckpt')
    found = checkpoints.read(file, arch=SMALL)
    assert (found.family, found.kind) == ('efficientvmamba', 'classifier')
    assert len(found.report.used) == len(weights) and not found.report.dropped
    backbone = EfficientVMamba(SMALL)
    report = checkpoints.load_backbone(backbone, file)
    assert {name.split('.')[0] for name in report.fresh} == {f'outnorm{i}' for i in range(4)}
    assert set(report.dropped) == {'norm.weight', 'norm.bias', 'head.fc.weight', 'head.fc.bias'}
    key = 'layers.2.2.conv_pw2.1.running_var'
    assert torch.equal(backbone.state_dict()[key], weights[f'module.module.{key}'])


@pytest.mark.parametrize('dim', [64, 96])
def test_either_width_of_s_is_recognised(dim, write):
    arch = {64: 'small', 96: 'small-96'}[dim]
    other = {64: 'small-96', 96: 'small'}[dim]
    weights = EfficientVMamba(arch).state_dict()
    file = write(weights)
    assert checkpoints.read(file).arch == arch
    checkpoints.load_backbone(EfficientVMamba(arch), file)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_backbone(EfficientVMamba(other), file)
    text = f'another size: arch {arch}, dim={dim}, and this EfficientVMamba has dim={160 - dim}'
    assert text in str(caught.value) and f"arch='{arch}'" in str(caught.value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'ssm_ratio': 1}, 'ssm_ratio=1, and this EfficientVMamba has ssm_ratio=2'),
        ({'d_state': 4}, 'd_state=4, and this EfficientVMamba has d_state=16'),
        ({'step': 3}, 'step=3, and this EfficientVMamba has step=2'),
        ({'depths': (1, 1, 3, 1)}, r'depths=\(1, 1, 3, 1\), and this EfficientVMamba has depths=\(1, 1, 2, 1\)'),
    ],
)
def test_a_wrong_variant_is_named(change, message, write):
    file = write(randomised(EfficientVMamba({**SMALL, **change})).state_dict())
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_backbone(EfficientVMamba(SMALL), file)


def test_a_relative_is_told_apart(write):
    """VMamba's first release shares stem and mixer's names."""
    first = {**SMALL, 'd_state': 16, 'ssm_ratio': 2, 'mlp_ratio': 0, 'release': 'v0'}
    theirs = write(randomised(VMamba(first)).state_dict(), name='vmamba.pth')
    ours = write(randomised(EfficientVMamba(SMALL)).state_dict(), name='ours.pth')
    assert checkpoints.read(theirs, arch=first).family == 'vmamba'
    assert checkpoints.read(ours, arch=SMALL).family == 'efficientvmamba'
    with pytest.raises(CheckpointError):
        checkpoints.load_backbone(EfficientVMamba(SMALL), theirs)
    with pytest.raises(CheckpointError):
        checkpoints.load_backbone(VMamba(first), ours)
