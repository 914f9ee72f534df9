"""Nothing is built or run that no output needs."""

import re

import pytest
import torch
from families import FAMILY_CASES
from test_backbones import VARIANTS, build, image

from mmvim import checkpoints
from mmvim.checkpoints.families import FAMILIES


def fewer(family, variant):
    """Every beginning of the possible outputs that leaves something out."""
    whole = build(family, variant)
    last = whole.out_indices[-1]
    assert last > 0, 'nothing could be left out'
    return [(i,) for i in range(last)] + ([(0, last - 1)] if last > 1 else [])


def changes(family, variant, indices, **more):
    options = dict(FAMILY_CASES[family].variants[variant].arguments, **more)
    return {
        'out_indices': indices,
        'drop_path_rate': 0.0,
        **{k: False for k in ('final_norm',) if k in options},
        **more,
    }


@VARIANTS
def test_outputs_are_those_of_the_whole_model(family, variant):
    x = image(2, 3, 64, 48)
    for indices in fewer(family, variant):
        everything = tuple(range(build(family, variant).out_indices[-1] + 1))
        whole = build(family, variant, **changes(family, variant, everything)).eval()
        part = build(family, variant, **changes(family, variant, indices)).eval()
        part.load_state_dict(whole.state_dict(), strict=True)  # a complete file fits
        for i, got in zip(indices, part(x), strict=True):
            assert torch.equal(got, whole(x)[i]), (indices, i)
        assert part.not_built and len(list(part.parameters())) < len(list(whole.parameters()))
        assert all(not n.startswith(part.not_built) for n in part.state_dict())
        assert part.get_layer_depth('patch_embed.')[1] == whole.get_layer_depth('patch_embed.')[1]


@VARIANTS
def test_every_parameter_gets_a_gradient(family, variant):
    """As ``DistributedDataParallel`` requires."""
    for indices in fewer(family, variant):
        for build_unused in (False, True):
            model = build(family, variant, **changes(family, variant, indices, build_unused=build_unused)).train()
            sum(y.square().mean() for y in model(image(2, 3, 64, 48))).backward()
            lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not lacking, (indices, build_unused)


@VARIANTS
def test_unused_parts_can_be_built(family, variant):
    for indices in fewer(family, variant):
        model = build(family, variant, **changes(family, variant, indices, build_unused=True))
        whole = build(family, variant, **changes(family, variant, build(family, variant).out_indices))
        output_norm = re.compile(FAMILIES[family].output_norm)
        names = {n for n in whole.state_dict() if not output_norm.match(n)}
        assert {n for n in model.state_dict() if not output_norm.match(n)} == names
        frozen = {n for n, p in model.train().named_parameters() if not p.requires_grad}
        part = build(family, variant, **changes(family, variant, indices))
        assert frozen == {n for n in names if n.startswith(part.not_built)} & dict(whole.named_parameters()).keys()
        assert not any(m.training for n, m in model.named_modules() if f'{n}.'.startswith(part.not_built))


@VARIANTS
def test_a_published_file_says_what_is_not_needed(family, variant, tmp_path):
    everything = tuple(range(build(family, variant).out_indices[-1] + 1))
    model = build(family, variant, **changes(family, variant, everything))
    torch.save(model.state_dict(), tmp_path / 'file.pth')
    indices = fewer(family, variant)[0]
    part = build(family, variant, **changes(family, variant, indices))
    report = checkpoints.load_backbone(part, str(tmp_path / 'file.pth'))
    reasons = {why for n, why in report.dropped.items() if n.startswith(part.not_built)}
    assert reasons == {f'not needed for out_indices={indices}'}
    assert all(torch.equal(x, model.state_dict()[n]) for n, x in part.state_dict().items())


def test_a_file_of_another_depth_is_still_refused(tmp_path):
    torch.save(
        build('vim', 'two', arch={'embed_dims': 32, 'depth': 3}, out_indices=-1).state_dict(), tmp_path / 'file.pth'
    )
    with pytest.raises(checkpoints.CheckpointError, match='of another size'):
        checkpoints.load_backbone(build('vim', 'two', out_indices=0), str(tmp_path / 'file.pth'))
