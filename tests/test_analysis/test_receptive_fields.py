"""How far an output sees, what a feature map is made of and what speaks for a class."""

import pytest
import torch
from families import FAMILY_CASES
from family_cases.base import randomised
from torch import nn

from mmvim.analysis.visualize.features import principal_components
from mmvim.analysis.visualize.grad_cam import class_map
from mmvim.analysis.visualize.receptive import ReceptiveField, receptive_fields, side_holding
from mmvim.models import LinearReadout, SelectiveScan2D, Vim

GENERATOR = torch.Generator().manual_seed(0)
PICTURE = torch.randn(1, 3, 48, 80, generator=GENERATOR)


def scanned(*paths):
    """Patches of 8 x 8 pixels and one scan along the given paths."""
    torch.manual_seed(0)
    return randomised(nn.Sequential(nn.Conv2d(3, 8, 8, 8), SelectiveScan2D(8, paths=paths, d_conv=1)), scale=0.5)


def patches(field, side=8):
    """Whether anything in each patch is seen."""
    return (field.unflatten(0, (-1, side)).unflatten(2, (-1, side)).sum((1, 3)) > 0).int().tolist()


def test_a_forward_scan_sees_only_backwards():
    ((field, _),) = receptive_fields(scanned('row'), PICTURE)
    assert patches(field) == [[1] * 10] * 3 + [[1] * 6 + [0] * 4] + [[0] * 10] * 2, 'row 3, column 5 of 6 x 10'
    ((field, _),) = receptive_fields(scanned('row_reverse'), PICTURE)
    assert patches(field) == [[0] * 10] * 3 + [[0] * 5 + [1] * 5] + [[1] * 10] * 2
    ((field, _),) = receptive_fields(scanned('col'), PICTURE)
    assert patches(field) == [[1] * 6 + [0] * 4] * 4 + [[1] * 5 + [0] * 5] * 2


def test_a_bidirectional_scan_reaches_the_corners():
    ((field, _),) = receptive_fields(scanned('row', 'row_reverse'), PICTURE)
    assert patches(field) == [[1] * 10] * 6
    model = Vim({'embed_dims': 16, 'depth': 2}, img_size=48, patch_size=8, out_indices=(0, 1))
    for field, _ in receptive_fields(model, PICTURE):
        corners = [field[:8, :8], field[:8, -8:], field[-8:, :8], field[-8:, -8:]]
        assert all((corner > 0).any() for corner in corners)


@pytest.mark.parametrize('family', FAMILY_CASES)
def test_every_family_has_a_field_of_the_pictures_size(family):
    model = FAMILY_CASES[family].build_tiny().train()
    fields = receptive_fields(model, PICTURE.expand(2, -1, -1, -1))
    with torch.no_grad():
        assert len(fields) == len(model.eval()(PICTURE))
    assert all(field.shape == (48, 80) and field.isfinite().all() and field.sum() > 0 for field, _ in fields)
    assert all(p.grad is None for p in model.parameters())


def test_the_cell_can_be_chosen():
    ((field, centre),) = receptive_fields(nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 20, 30), at=(0.0, 1.0))
    assert (field > 0).nonzero().tolist() == [[0, 28], [0, 29], [1, 28], [1, 29]] and centre == (0.5, 29.5)


def test_squares_hold_their_share():
    field = torch.zeros(21, 31)
    field[10, 15], field[10, 20], field[0, 15] = 8.0, 1.0, 1.0
    assert side_holding(ReceptiveField(field, (10.5, 15.5)), (0.5, 0.9, 1.0)) == (1, 11, 21)
    assert side_holding(ReceptiveField(field, (10.0, 15.0)), (0.5,)) == (2,), 'between pixels'
    assert side_holding(ReceptiveField(torch.zeros(4, 4), (2.0, 2.0))) == (0, 0, 0)


def test_fields_refuse():
    with pytest.raises(ValueError, match='at='):
        receptive_fields(nn.Conv2d(3, 4, 1), PICTURE, at=(0.5, 1.5))
    with pytest.raises(ValueError, match='must return maps'):
        receptive_fields(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), PICTURE)
    with pytest.raises(ValueError, match='pictures is empty'):
        receptive_fields(nn.Conv2d(3, 4, 1), PICTURE[:0])


def test_components_find_what_the_map_is_made_of():
    stripes = torch.arange(6.0)[:, None].expand(6, 9) % 2
    ramp = torch.arange(9.0).expand(6, 9) / 9
    mixed = torch.stack([3 * stripes, -ramp, 0.5 * stripes + 0.1 * ramp, torch.full((6, 9), 7.0)])
    found = principal_components(mixed)
    assert torch.allclose(found.maps[0], stripes.double(), atol=0.05), 'the largest weight is positive'
    assert found.shares.sum() == pytest.approx(1.0) and found.shares[2] == pytest.approx(0.0, abs=1e-9)
    assert found.maps.min() >= 0 and found.maps.max() <= 1
    assert principal_components(torch.ones(4, 2, 3)).maps.eq(0).all()
    assert principal_components(torch.randn(2, 5, 5)).maps.shape == (3, 5, 5), 'fewer channels than components'
    with pytest.raises(ValueError, match='not finite'):
        principal_components(torch.full((2, 3, 3), torch.nan))


class Square(nn.Module):
    """A segmentor of two classes: what is bright in the first channel is of class 1."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 4, 4, bias=False)
        self.decode_head = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.backbone.weight.zero_()
            self.backbone.weight[0, 0] = 1 / 16
            self.decode_head.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[..., None, None])

    def forward(self, x):
        return self.decode_head(self.backbone(x))


def test_what_speaks_for_a_class_of_a_segmentor():
    picture = torch.full((1, 3, 24, 40), -0.1)
    picture[:, 0, 4:12, 20:36] = 1.0
    found = class_map(Square().train(), picture, label=1)
    assert found.label == 1 and found.values.shape == (6, 10) and found.scores.shape == (2, 6, 10)
    assert (found.values > 0).nonzero().tolist() == [[i, j] for i in (1, 2) for j in (5, 6, 7, 8)]
    assert class_map(Square(), picture).label == 0, 'most pixels are of it'
    with pytest.raises(ValueError, match='no pixel is predicted'):
        class_map(Square(), torch.full((1, 3, 24, 40), -0.1), label=1)
    with pytest.raises(ValueError, match=r'label=2 must lie in 0\.\.1'):
        class_map(Square(), picture, label=2)


@pytest.mark.parametrize('cls_token', ['none', 'middle', 'double'])
def test_what_speaks_for_a_class_of_a_classifier(cls_token):
    torch.manual_seed(0)
    out_type = 'featmap' if cls_token == 'none' else 'cls_token'
    backbone = Vim({'embed_dims': 16, 'depth': 2}, img_size=32, cls_token=cls_token, out_type=out_type)
    model = nn.Sequential()
    model.backbone, model.head = backbone, LinearReadout(16, 5)
    expected = model(PICTURE)
    found = class_map(model, PICTURE)
    assert torch.allclose(found.scores, expected[0], atol=1e-5), 'the hook changes the scores'
    assert found.values.shape == (3, 5) and found.values.max() > 0 and found.label == int(expected.argmax())
    others = [class_map(model, PICTURE, label).values for label in range(5)]
    assert any(not torch.allclose(values, found.values) for values in others)
    if cls_token == 'none':
        with pytest.raises(ValueError, match='output=1'):
            class_map(model, PICTURE, output=1)


def test_a_model_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match='no part called backbone'):
        class_map(nn.Conv2d(3, 2, 1), PICTURE)
