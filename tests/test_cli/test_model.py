"""Options of MMEngine that change the forward pass of parts of the model."""

import pytest
from mmengine.config import Config
from torch import nn

from mmvim.cli import UserError, build_model
from mmvim.cli.model import check_wrapping

VIM = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 8, 'depth': 2}, 'img_size': 32}


class Model(nn.Module):
    """As a segmentor."""

    def __init__(self):
        super().__init__()
        self.backbone = build_model(Config({'model': VIM}))
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 8)


def check(**options):
    check_wrapping(Config(options), Model())


@pytest.mark.parametrize('names', ['backbone', ['backbone', 'head'], None])
def test_checkpointing_of_whole_parts(names, capfd):
    check(activation_checkpointing=names)
    assert 'warning' not in capfd.readouterr().err


@pytest.mark.parametrize('name', ['backbone.patch_embed', 'backbone.layers.1', 'backbone.layers'])
def test_checkpointing_within_the_backbone_is_refused(name):
    with pytest.raises(UserError, match=f'activation_checkpointing of {name} .*with_cp=True'):
        check(activation_checkpointing=[name])


def test_checkpointing_of_a_backbone_inside_of_an_adapter():
    plain = {'type': 'mmvim.Vim', 'arch': {'embed_dims': 8, 'depth': 4, 'd_state': 2}}
    adapter = {'type': 'mmvim.ViTAdapter', 'backbone': plain, 'num_heads': 2, 'conv_dims': 4}
    model = nn.ModuleDict({'backbone': build_model(Config({'model': adapter}))})
    check_wrapping(Config({'activation_checkpointing': ['backbone']}), model)
    with pytest.raises(UserError, match=r'activation_checkpointing of backbone.plain .*with_cp=True'):
        check_wrapping(Config({'activation_checkpointing': ['backbone.plain']}), model)


def test_checkpointing_of_batch_norms_is_told(capfd):
    check(activation_checkpointing=['neck'])
    assert 'running statistics' in capfd.readouterr().err


@pytest.mark.parametrize('option', ['activation_checkpointing', 'efficient_conv_bn_eval'])
def test_a_part_that_is_not_there(option):
    with pytest.raises(UserError, match=f"{option} names 'bakbone'.*backbone, neck, head"):
        check(**{option: ['bakbone']})


def test_efficient_conv_bn_eval():
    check(efficient_conv_bn_eval=['neck'])
    with pytest.raises(UserError, match='efficient_conv_bn_eval cannot be applied to backbone'):
        check(efficient_conv_bn_eval=['backbone'])


@pytest.mark.parametrize(
    ('model', 'backbone', 'words'),
    [
        (
            {'pretrained': 'open-mmlab://resnet50_v1c'},
            {},
            r'set model\.pretrained=None .*model\.backbone\.init_cfg=dict',
        ),
        ({}, {'dilations': (1, 1, 2, 4)}, r'add _delete_=True to model\.backbone.*\(dilations is one\)'),
        ({}, {'arch': 'huge'}, r"arch='huge'.*MMVIM_DEBUG"),
    ],
    ids=['pretrained', 'dilations', 'own'],
)
def test_what_a_backbone_inherits_of_a_stock_config(model, backbone, words):
    head = {'type': 'FCNHead', 'in_channels': 8, 'channels': 8, 'num_classes': 2}
    cfg = {'type': 'EncoderDecoder', 'backbone': {**VIM, **backbone}, 'decode_head': head, **model}
    with pytest.raises(UserError, match=words):
        build_model(Config({'default_scope': 'mmseg', 'model': cfg}))
