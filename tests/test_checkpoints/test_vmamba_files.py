"""The forms in which VMamba's files keep the same numbers, and files of another variant."""

from collections import OrderedDict

import pytest
import torch
from family_cases.base import randomised
from family_cases.vmamba import FIRST, SMALL, published
from mmengine.runner.checkpoint import load_state_dict

from mmvim import checkpoints
from mmvim.models import VMamba

WIDE = {**SMALL, 'ssm_ratio': 2}
LINEAR = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight', 'x_proj.weight', 'dt_projs.weight')


def kernels(weights):
    """Linear layers as 1 x 1 convolutions."""
    return OrderedDict((n, x[..., None, None] if n.endswith(LINEAR) else x) for n, x in weights.items())


def stacked(weights):
    """The projections of the paths with an axis for the paths."""
    return OrderedDict(
        (n.removesuffix('.weight') + '_weight', x.unflatten(0, (4, -1)))
        if n.endswith(('x_proj.weight', 'dt_projs.weight'))
        else (n, x)
        for n, x in weights.items()
    )


def older(weights):
    """The names of the first files."""
    found = OrderedDict()
    for name, value in weights.items():
        for new, old in (
            ('patch_embed.0.', 'patch_embed.proj.'),
            ('patch_embed.2.', 'patch_embed.norm.'),
            ('downsample.1.', 'downsample.norm.'),
            ('downsample.2.', 'downsample.reduction.'),
            ('.op.', '.self_attention.'),
            ('classifier.', ''),
        ):
            name = name.replace(new, old)
        if '.blocks.' in name and 'self_attention' not in name:
            name = name.replace('.norm.', '.ln_1.')
        found[name] = value
    return found


@pytest.mark.parametrize('change', [kernels, stacked, lambda weights: kernels(stacked(weights))])
def test_other_forms_of_the_same_numbers(change, write):
    weights = published(SMALL)
    plain, other = write(weights, name='plain.pth'), write(change(weights), name='other.pth')
    backbones = [VMamba(SMALL), VMamba(SMALL)]
    reports = [checkpoints.load_backbone(b, f) for b, f in zip(backbones, (plain, other), strict=True)]
    assert not reports[0].resized and reports[1].resized
    assert set(reports[0].used) == set(reports[1].used) | set(reports[1].resized)
    given = backbones[0].state_dict()
    for name, value in backbones[1].state_dict().items():
        assert name.startswith('outnorm') or torch.equal(value, given[name]), name
    assert checkpoints.read(other, arch=SMALL).kind == 'classifier'
    # PyTorch and MMEngine, which loads a whole model so, without the reader
    for load in (VMamba.load_state_dict, load_state_dict):
        direct = VMamba(SMALL, out_norm=False)
        theirs = {n: x for n, x in change(weights).items() if not n.startswith('classifier.')}
        before = dict(theirs)
        load(direct, theirs, strict=True)
        assert all(torch.equal(x, given[n]) for n, x in direct.state_dict().items())
        assert list(theirs) == list(before) and all(theirs[n] is x for n, x in before.items()), 'the weights changed'


def test_both_forms_at_once_are_one_too_many(write):
    """Whichever comes first, neither is dropped without a word."""
    weights = published(SMALL)
    other = stacked(weights)
    (name,) = [n for n in other if n not in weights and n.startswith('layers.0.blocks.0.') and 'x_proj' in n]
    for both in (OrderedDict(weights, **{name: other[name]}), OrderedDict({name: other[name]}, **weights)):
        with pytest.raises(checkpoints.CheckpointError, match=r'1 that belong nowhere .*op\.x_proj_weight'):
            checkpoints.load_backbone(VMamba(SMALL), write(both))


def test_names_of_the_first_files(write):
    weights = published(FIRST)
    names = older(weights)
    assert 'head.weight' in names and 'layers.0.blocks.0.ln_1.weight' in names
    found = checkpoints.read(write(names), arch=FIRST)
    assert found.kind == 'classifier' and len(found.report.used) == len(weights) and not found.report.dropped
    assert torch.equal(found.state_dict['head.fc.weight'], weights['classifier.head.weight'])


def test_a_wrong_variant_is_named(write):
    file = write(randomised(VMamba(WIDE)).state_dict())
    with pytest.raises(checkpoints.CheckpointError, match='another size: ssm_ratio=2, and this VMamba has ssm_ratio=1'):
        checkpoints.load_backbone(VMamba(SMALL), file)
    with pytest.raises(checkpoints.CheckpointError, match='release=v2'):
        checkpoints.load_backbone(VMamba(FIRST), file)


def test_another_shape_is_a_misfit(write):
    weights = randomised(VMamba(SMALL)).state_dict()
    name = 'layers.0.blocks.0.op.x_proj.weight'
    weights[name] = weights[name].T.contiguous()  # as many numbers
    with pytest.raises(checkpoints.CheckpointError, match=r'op\.x_proj\.weight'):
        checkpoints.load_backbone(VMamba(SMALL), write(weights))
