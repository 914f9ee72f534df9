"""What adapters ask of a plain backbone: to run its blocks in groups, and to show its patches."""

import itertools

import pytest
import torch
from adapters import EACH, PLAIN, outputs_and_gradients
from families import ADAPTERS
from test_backbones import image

from mmvim.models.backbones.plain import PlainBackbone
from mmvim.registry import MODELS


def test_every_plain_backbone_is_here():
    plain = {
        name for name, cls in MODELS.module_dict.items() if isinstance(cls, type) and issubclass(cls, PlainBackbone)
    }
    assert plain == {config['type'].removeprefix('mmvim.') for config in PLAIN.values()}
    assert set(ADAPTERS) == {'ViTAdapter'}


@EACH
@pytest.mark.parametrize('steps', [(0, 4), (0, 1, 4), (0, 2, 3, 4), (0, 1, 2, 3, 4)])
def test_groups_of_blocks_are_the_backbone(plain, steps):
    """Embedding and blocks, run in any groups, are the backbone without its norms: output and every gradient."""
    config, kind = dict(PLAIN[plain]), MODELS.get(PLAIN[plain]['type'])
    torch.manual_seed(0)
    model = MODELS.build({**config, **kind.bare}).double().eval()
    assert (model.patch_stride, model.depth, model.embed_dims) == ((16, 16), 4, 16)

    def in_groups(x):
        tokens, grid = model.embed(x)
        assert grid == (3, 5)
        for first, stop in itertools.pairwise(steps):
            tokens = model.run_blocks(tokens, grid, first, stop)
        patches = model.patches_of(tokens, grid)
        return [patches.transpose(1, 2).unflatten(2, grid)]

    x = image(2, 3, 48, 70).double()
    outputs, grads = outputs_and_gradients(in_groups, model, x)
    wanted, wanted_grads = outputs_and_gradients(model, model, x)
    torch.testing.assert_close(outputs, wanted, rtol=1e-9, atol=1e-9)
    for name, grad in wanted_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-7, atol=1e-9, msg=name)


@EACH
def test_patches_among_tokens(plain):
    """Patches can be taken out and replaced; class tokens stay where they are, as they are."""
    model = MODELS.build(dict(PLAIN[plain]))
    tokens, grid = model.embed(image(2, 3, 48, 70))
    patches = model.patches_of(tokens, grid)
    assert patches.shape == (2, 15, 16)
    again = model.with_patches(tokens, patches + 1, grid)
    same = (again == tokens).all(-1).all(0)
    assert again.shape == tokens.shape and same.sum() == tokens.shape[1] - 15
    torch.testing.assert_close(model.patches_of(again, grid), patches + 1)
