"""The grid of the positions travels with the weights, and where a file does not say it nothing is guessed."""

import copy
from collections import OrderedDict

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import get_state_dict

from mmvim import checkpoints
from mmvim.models import Vim
from mmvim.models.layers.pos_embed import resize_grid

ARCH = {'embed_dims': 32, 'depth': 2}
LONG, SQUARE = (64, 256), 128  # 4 x 16 and 8 x 8 cells, equally many
LONG_GRID = (4, 16)
RECORD = 'pos_embed_grid'


def vim(size, **options):
    model = Vim(ARCH, img_size=size, **options)
    with torch.no_grad():
        model.pos_embed.normal_()
    return model


def first_version(state_dict):
    """Weights as mmvim 0.1.0 wrote them."""
    return OrderedDict((name, x) for name, x in state_dict.items() if not name.endswith(RECORD))


def config_text(size, kind='mmvim.Vim'):
    model = {'type': 'EncoderDecoder', 'backbone': {'type': kind, 'arch': ARCH, 'img_size': size}}
    return Config({'model': model}).pretty_text


@pytest.fixture
def save(tmp_path):
    def call(content, name='vim.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return call


def load(model, file, **options):
    model.init_cfg = {'type': 'Pretrained', 'checkpoint': file, **options}
    model.init_weights()
    return model


@pytest.mark.parametrize('cls_token', ['none', 'middle', 'double'])
@pytest.mark.parametrize('size', [LONG, (64, 128), (256, 64), SQUARE, (16, 48)])
def test_own_weights_into_the_same_model(size, cls_token, save):
    model = vim(size, cls_token=cls_token)
    file = save(model.state_dict())
    loaded = load(vim(size, cls_token=cls_token), file)
    assert torch.equal(loaded.pos_embed, model.pos_embed)
    again = vim(size, cls_token=cls_token)
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(again.pos_embed, model.pos_embed)


def ema(model):
    average = ExponentialMovingAverage(model)
    average.update_parameters(model)
    return average.state_dict()


FORMS = {
    'bare': lambda model: model.state_dict(),
    'in a segmentor': lambda model: {
        'state_dict': {f'backbone.{name}': x for name, x in model.state_dict().items()}
        | {'decode_head.w': torch.ones(1)}
    },
    'of DDP': lambda model: {'model': {f'module.{name}': x for name, x in model.state_dict().items()}},
    'a moving average': lambda model: {'state_dict': ema(model)},
    "MMEngine's": lambda model: {'state_dict': get_state_dict(model), 'meta': {}},
    'in half precision': lambda model: {'model': copy.deepcopy(model).half().state_dict()},
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('size', [SQUARE, (64, 512)])
def test_the_record_survives(form, size, save):
    """As many cells of another shape, and another number of them: both are resized from the true grid."""
    model = vim(LONG)
    loaded = load(vim(size), save(FORMS[form](model)))
    wanted = resize_grid(model.pos_embed, (4, 16), loaded.grid_size)
    bound = 2e-3 if 'half' in form else 0
    torch.testing.assert_close(loaded.pos_embed, wanted, rtol=bound, atol=bound)
    assert loaded.pos_embed_grid.tolist() == list(loaded.grid_size)


def test_the_record_survives_safetensors(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    model = vim(LONG)
    safetensors.save_file(dict(model.state_dict()), tmp_path / 'vim.safetensors')
    loaded = load(vim(SQUARE), str(tmp_path / 'vim.safetensors'))
    assert torch.equal(loaded.pos_embed, resize_grid(model.pos_embed, (4, 16), (8, 8)))


@pytest.mark.parametrize('strict', [True, False])
def test_load_state_dict_resizes_from_the_record(strict):
    model, other = vim(LONG), vim(SQUARE)
    other.load_state_dict(model.state_dict(), strict=strict)
    assert torch.equal(other.pos_embed, resize_grid(model.pos_embed, (4, 16), (8, 8)))


def test_read_and_converters_keep_it(save):
    model = vim(LONG)
    file = save({'model': model.state_dict()})
    checkpoint, found = checkpoints.to_mmvim(file, arch=ARCH, img_size=LONG)
    assert found.backbone['img_size'] == LONG
    assert checkpoint['state_dict'][f'backbone.{RECORD}'].tolist() == [4, 16]
    assert checkpoints.read(file, arch=ARCH).backbone['img_size'] == LONG  # unasked
    checkpoints.save_file(checkpoint, file)
    back = checkpoints.from_mmvim(file)['model']
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], x) for name, x in model.state_dict().items())


def test_a_file_of_the_first_version_loads_unasked(save):
    model = vim(LONG)
    for content in (
        first_version(model.state_dict()),
        {'state_dict': first_version(model.state_dict()), 'meta': {'cfg': config_text(LONG)}},
    ):
        assert torch.equal(load(vim(LONG), save(content)).pos_embed, model.pos_embed)
    same = vim(LONG)
    same.load_state_dict(first_version(model.state_dict()), strict=True)
    assert torch.equal(same.pos_embed, model.pos_embed)


def test_the_config_beside_the_weights_tells(save):
    """MMEngine writes it into every checkpoint; the positions alone would be taken for the model's own."""
    model = vim(LONG)
    content = {'state_dict': first_version(model.state_dict()), 'meta': {'cfg': config_text(LONG)}}
    loaded = load(vim(SQUARE), save(content))
    assert torch.equal(loaded.pos_embed, resize_grid(model.pos_embed, (4, 16), (8, 8)))
    whole = {f'backbone.{name}': x for name, x in content['state_dict'].items()}
    weights, _ = checkpoints.model_weights({**content, 'state_dict': whole}, 'file')
    assert weights[f'backbone.{RECORD}'].tolist() == [4, 16]


def test_another_config_beside_the_weights_does_not(save):
    content = {'state_dict': first_version(vim(LONG).state_dict())}
    for text in (
        config_text(LONG, 'mmvim.MambaVision'),
        config_text(0),
        config_text('x'),
        'model = (',
        'import os',
        '',
    ):
        with pytest.raises(checkpoints.CheckpointError, match='grid'):
            load(vim((64, 128)), save({**content, 'meta': {'cfg': text}}))


def test_what_nobody_says_is_an_error(save):
    weights = first_version(vim(LONG).state_dict())
    file = save(weights)
    with pytest.raises(checkpoints.CheckpointError, match=r'does not say.*give grid=\(rows, columns\)'):
        load(vim(256), file)
    with pytest.raises(checkpoints.CheckpointError, match='does not say'):
        checkpoints.read(file, arch=ARCH)
    before = vim(256)
    untouched = before.pos_embed.clone()
    with pytest.raises(ValueError, match=r'does not say of which grid; this model has 16 x 16.*grid=\(rows, columns\)'):
        before.load_state_dict(weights)
    assert torch.equal(before.pos_embed, untouched)
    assert load(vim(256), file, grid=(4, 16)).pos_embed.shape[1] == 256
    with pytest.raises(checkpoints.CheckpointError, match='does not fill a grid'):
        load(vim(256), file, grid=(4, 15))


def test_the_user_may_not_contradict_the_file(save):
    with pytest.raises(
        checkpoints.CheckpointError, match=r'grid=\(8, 8\) is not that of the file, which says \(4, 16\)'
    ):
        load(vim(LONG), save(vim(LONG).state_dict()), grid=(8, 8))


def test_a_record_that_cannot_be_is_an_error(save):
    weights = vim(LONG).state_dict()
    weights[RECORD] = torch.tensor([4, 15])
    with pytest.raises(checkpoints.CheckpointError, match='does not fill the grid that its record has'):
        load(vim(LONG), save(weights))
    with pytest.raises(ValueError, match='do not fill the grid it records'):
        vim(LONG).load_state_dict(weights)


@pytest.mark.parametrize('size', [LONG, SQUARE, 256])
def test_publishers_files_are_square(size, save):
    """Their classifiers, whose final norm tells them; 8 x 8 positions even where the model has as many of 4 x 16."""
    published = vim(SQUARE, cls_token='middle', final_norm=True)
    weights = first_version(published.state_dict())
    loaded = load(vim(size), save({'model': weights}))
    cells = torch.cat([published.pos_embed[:, :32], published.pos_embed[:, 33:]], dim=1)
    torch.testing.assert_close(loaded.pos_embed, resize_grid(cells, (8, 8), loaded.grid_size), rtol=0, atol=0)


def test_the_report_says_what_was_assumed(save):
    weights = first_version(vim(LONG).state_dict())
    report = checkpoints.load_backbone(vim(LONG), save(weights))
    assert report.assumed == {RECORD: "4 x 16, as many positions as the model's grid has"}
    assert 'assumed' in report.summary()
    report = checkpoints.load_backbone(vim(LONG), save(vim(LONG).state_dict()))
    assert not report.assumed and RECORD in report.used


def test_a_classifier_whose_writer_is_not_clear(save):
    """A final norm and as many positions as the model: of 8 x 8 cells if published, of 4 x 16 if of version 0.1.0."""
    model = vim(LONG, final_norm=True)
    weights = first_version(model.state_dict())
    both = r'8 x 8 cells.* or of 4 x 16.*grid=\(8, 8\) or grid=\(4, 16\)'
    with pytest.raises(checkpoints.CheckpointError, match=both):
        load(vim(LONG, final_norm=True), save(weights))
    for content, options in (
        ({'state_dict': weights, 'meta': {'cfg': config_text(LONG)}}, {}),
        (weights, {'grid': LONG_GRID}),
        (model.state_dict(), {}),
    ):
        loaded = load(vim(LONG, final_norm=True), save(content), **options)
        assert torch.equal(loaded.pos_embed, model.pos_embed)
    loaded = load(vim(LONG, final_norm=True), save(weights), grid=(8, 8))
    assert torch.equal(loaded.pos_embed, resize_grid(model.pos_embed, (8, 8), LONG_GRID))


def test_load_state_dict_of_a_published_classifier():
    """Its head stands beside its backbone's names; without one the weights are the model's own."""
    model = vim(LONG, final_norm=True)
    weights = first_version(model.state_dict())
    own, published = vim(LONG, final_norm=True), vim(LONG, final_norm=True)
    own.load_state_dict(weights)
    assert torch.equal(own.pos_embed, model.pos_embed)
    published.load_state_dict({**weights, 'head.weight': torch.zeros(7, 32)}, strict=False)
    assert torch.equal(published.pos_embed, resize_grid(model.pos_embed, (8, 8), LONG_GRID))
