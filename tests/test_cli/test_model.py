"""Options of MMEngine that change the forward pass of parts of the model, and what a stock config leaves of its own."""

import importlib.util
import inspect
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from mmvim.cli import UserError, build_model, check_pretrained
from mmvim.cli.first_step import check_first_step
from mmvim.cli.model import check_wrapping
from mmvim.models import Vim

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
        ({}, {'dilations': (1, 1, 2, 4)}, r'add _delete_=True to model\.backbone.*\(dilations\)'),
        ({}, {'norm_cfg': {'type': 'SyncBN'}}, r"norm_cfg={'type': 'SyncBN'} normalises maps, .* set type='LN'"),
        ({}, {'arch': 'huge'}, r"arch='huge'.*MMVIM_DEBUG"),
    ],
    ids=['pretrained', 'dilations', 'norm', 'own'],
)
def test_what_a_backbone_inherits_of_a_stock_config(model, backbone, words):
    head = {'type': 'FCNHead', 'in_channels': 8, 'channels': 8, 'num_classes': 2}
    cfg = {'type': 'EncoderDecoder', 'backbone': {**VIM, **backbone}, 'decode_head': head, **model}
    with pytest.raises(UserError, match=words):
        build_model(Config({'default_scope': 'mmseg', 'model': cfg}))


@pytest.mark.parametrize('file', ['torchvision://resnet50', 'open-mmlab://resnet50_v1c'])
def test_weights_that_a_backbone_inherits_of_a_stock_config(file):
    """Nothing is fetched: there is no backbone of mmvim among them."""
    backbone = {**VIM, 'init_cfg': {'type': 'Pretrained', 'checkpoint': file}}
    cfg = Config({'model': {'type': 'mmvim.ViTAdapter', 'backbone': backbone, 'num_heads': 2, 'conv_dims': 4}})
    cfg.model.backbone.arch = {'embed_dims': 8, 'depth': 4, 'd_state': 2}
    with pytest.raises(UserError, match=rf"Vim, names {file}: another backbone's weights; set its init_cfg=None"):
        check_pretrained(cfg, build_model(cfg))


USUAL = {'upernet_r50', 'fpn_r50', 'deeplabv3_r50-d8', 'lraspp_m-v3-d8'}
USUAL |= {'mask-rcnn_r50_fpn', 'cascade-mask-rcnn_r50_fpn', 'retinanet_r50_fpn'}


def stock_models():
    """The models of every base config of MMSegmentation and MMDetection, the usual ones in ordinary runs."""
    for library in ('mmseg', 'mmdet'):
        found = importlib.util.find_spec(library)
        if found is None:
            continue
        folder = Path(found.origin).parent / '.mim' / 'configs' / '_base_' / 'models'
        for file in sorted(folder.glob('*.py')):
            marks = () if file.stem in USUAL else pytest.mark.full
            yield pytest.param(library, file, marks=marks, id=f'{library}-{file.stem}')


@pytest.mark.parametrize(('library', 'file'), list(stock_models()))
def test_a_stock_config_says_step_by_step_what_to_set(library, file):
    """Its backbone's type and architecture are replaced, and then what the messages say, until it could train."""
    pytest.importorskip('mmcv._ext' if library == 'mmdet' else library)
    model = Config.fromfile(file).model
    if 'backbone' not in model:
        pytest.skip('has no backbone of its own')
    cfg = Config({'default_scope': library, 'model': model, 'train_dataloader': {'batch_size': 2}})
    stock = set(model.backbone) - {'type', 'pretrained'}
    cfg.model.backbone = {**model.backbone, **VIM}
    told = []
    for _ in range(4):
        try:
            built = build_model(cfg)
            check_first_step(cfg, built)
            break
        except UserError as error:
            told.append(str(error))
        if 'set model.pretrained=None' in told[-1]:
            cfg.model.pretrained = None
        elif 'add _delete_=True to model.backbone' in told[-1]:
            named = told[-1].partition("base config's (")[2].partition(')')[0].split(', ')
            assert set(named) <= stock and not set(named) & set(inspect.signature(Vim).parameters)
            assert {'depth', 'num_stages', 'style'} & stock <= set(named)
            cfg.model.backbone = dict(VIM)
        else:
            assert 'in_channels' in told[-1] or 'norm_cfg' in told[-1] or 'out_indices' in told[-1], told
            break
    assert told, 'a backbone of other channels and outputs cannot fit'
