"""What is special about LocalVim's files: norms without a bias, and a class token."""

import pytest
import torch
from family_cases.localvim import SMALL, published

from mmvim import checkpoints
from mmvim.models import LocalVim


def test_norms_of_published_classifiers(write):
    """The dense models have LayerNorm where the classifiers have RMSNorm, whose files lack the bias."""
    file = write(published())
    model = LocalVim(SMALL, img_size=224)
    report = checkpoints.load_backbone(model, file)
    assert 'the file has RMSNorm' in report.assumed['layers.0.norm.bias']
    assert not model.layers[0].norm.bias.any()
    assert torch.equal(model.layers[0].norm.weight, published()['layers.0.norm.weight'])


def test_a_class_token_is_refused(write):
    weights = {**published(), 'cls_token': torch.zeros(1, 1, 16), 'pos_embed': torch.zeros(1, 197, 16)}
    with pytest.raises(checkpoints.CheckpointError, match=r'class token, .*local_vim_tiny\.ckpt'):
        checkpoints.load_backbone(LocalVim(SMALL, img_size=224), write(weights))
