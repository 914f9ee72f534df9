"""Whether a checkpoint fits a model, as `mmvim.checkpoints.Report` judges."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmvim.cli import UserError, check_fit, check_start
from mmvim.cli.resume import check_resumed
from mmvim.models import Vim


class Segmentor(nn.Module):
    """Parts by the names that segmentors have."""

    def __init__(self, img_size=32):
        super().__init__()
        self.backbone = Vim({'embed_dims': 8, 'depth': 1}, img_size=img_size, patch_size=8)
        self.decode_head = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
        self.auxiliary_head = nn.Conv2d(8, 4, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Segmentor()


def fit(model, weights, complete=True):
    return check_fit(model, {'state_dict': weights}, 'a.pth', '--resume', complete)


def test_own_weights(model, capsys):
    assert fit(model, model.state_dict()) == 'a.pth'
    assert fit(model, model.state_dict(), complete=False) == 'a.pth'
    assert capsys.readouterr().err == ''


def test_weights_are_loaded(model):
    other = {name: value + value.is_floating_point() for name, value in model.state_dict().items()}
    fit(model, other)
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_wrapped_weights_go_through_mmvim(model):
    weights = {f'module.{name}': value for name, value in model.state_dict().items()}
    assert fit(model, weights).startswith('published:///')


def test_positions_that_the_backbone_resizes(model, capsys):
    assert fit(model, Segmentor(img_size=64).state_dict()) == 'a.pth'
    assert capsys.readouterr().err == ''


def test_positions_are_not_blamed_for_another_misfit(model):
    weights = Segmentor(img_size=64).state_dict()
    weights['decode_head.0.weight'] = torch.zeros(3, 8, 1, 1)
    with pytest.raises(UserError) as error:
        fit(model, weights)
    assert str(error.value) == (
        '--resume a.pth (as weights of this Segmentor) does not fit: it has 1 of another shape or kind '
        '(decode_head.0.weight: (3, 8, 1, 1) in the file, (4, 8, 1, 1) in the model); '
        'give the config that it was trained with'
    )
    assert error.value.status == 2


def test_what_may_be_missing(model, capsys):
    names = ('auxiliary_head', 'decode_head.1.num_batches_tracked')
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(names)}
    assert fit(model, weights) == 'a.pth'
    assert capsys.readouterr().err == ''
    del weights['decode_head.0.bias']
    with pytest.raises(UserError, match=r'lacks 1 weights \(decode_head\.0\.bias\)'):
        fit(model, weights)
    assert fit(model, weights, complete=False) == 'a.pth'


def test_weights_beyond_the_models(model, capsys):
    weights = {**model.state_dict(), 'neck.a': torch.ones(1), 'neck.b': torch.ones(1)}
    fit(model, weights)
    assert capsys.readouterr().err == (
        'warning: --resume a.pth has 2 weights that this Segmentor does not use, e.g. neck.a\n'
    )
    del weights['backbone.pos_embed']
    with pytest.raises(UserError, match=r'lacks 1 weights .*, has 2 that belong nowhere \(neck\.a, neck\.b\)'):
        fit(model, weights)
    assert capsys.readouterr().err == ''


def test_kinds_of_numbers(model):
    weights = model.state_dict()
    counter = 'decode_head.1.num_batches_tracked'
    assert fit(model, {**weights, counter: torch.tensor(3.0)}) == 'a.pth'
    with pytest.raises(UserError, match=f'{counter}: float32 in the file, int64 in the model'):
        fit(model, {**weights, counter: torch.tensor(3.5)})
    bias = 'decode_head.0.bias'
    with pytest.raises(UserError, match=f'{bias}: int8 in the file, float32 in the model'):
        fit(model, {**weights, bias: weights[bias].to(torch.int8)})


@pytest.mark.parametrize('complete', [True, False])
def test_nothing_that_the_model_can_use(model, complete):
    for weights in ({'resnet.weight': torch.ones(1)}, {'decode_head.0.weight': torch.ones(1)}):
        with pytest.raises(UserError, match='give the config that it was trained with'):
            fit(model, weights, complete)


def test_a_failing_hook_keeps_its_traceback(model):
    def fail(*_):
        raise RuntimeError('broken')

    model.decode_head.register_load_state_dict_pre_hook(fail)
    with pytest.raises(RuntimeError, match='broken'):
        fit(model, model.state_dict())


def test_bad_weights(model):
    weights = {**model.state_dict(), 'decode_head.0.bias': torch.full((4,), torch.nan)}
    with pytest.raises(UserError, match='NaN') as error:
        fit(model, weights)
    assert error.value.status == 1


def test_start_from_a_model_of_another_size(model, capsys):
    """MMEngine loads what fits, here two vectors, and trains nearly from scratch."""
    with pytest.raises(UserError) as error:
        fit(model, Wide().state_dict(), complete=False)
    words = str(error.value)
    assert words.startswith('--resume a.pth is of a model of another size: of the ')
    assert 'differ in shape, the first backbone.' in words and words.endswith('trained with, or leave it out')
    weights = {**model.state_dict(), 'decode_head.0.weight': torch.zeros(7, 8, 1, 1)}  # other classes: most of it fits
    capsys.readouterr()
    assert fit(model, weights, complete=False) == 'a.pth'
    said = capsys.readouterr().err
    assert '1 of its weights have another shape and are left out, the first decode_head.0.weight: (7, 8, 1, 1)' in said
    assert fit(model, model.state_dict(), complete=False) == 'a.pth' and not capsys.readouterr().err


class Wide(Segmentor):
    """The same of twice the width."""

    def __init__(self):
        super().__init__()
        self.backbone = Vim({'embed_dims': 16, 'depth': 1}, img_size=32, patch_size=8)
        self.decode_head[0] = nn.Conv2d(16, 4, 1)


def test_a_schedule_that_cannot_be_taken_from_the_config(tmp_path):
    """The message says what stands in the way."""
    words = "needs MMEngine's Runner and one optimizer, and "
    for cfg, found in (
        (Config({}), '--resume a.pth has several'),
        (Config({'runner_type': 'FlexibleRunner'}), "the config has runner_type='FlexibleRunner'"),
    ):
        with pytest.raises(UserError) as error:
            check_resumed(cfg, nn.Identity(), {'optimizer': {}}, 'a.pth', 'config')
        assert f'{words}{found}; leave it out' in str(error.value)
    with pytest.raises(UserError) as error:
        check_start(Config({'resume': True, 'load_from': str(tmp_path)}), nn.Identity(), 'config')
    assert f'in one file, and --resume {tmp_path} is a folder of parts; leave it out' in str(error.value)
