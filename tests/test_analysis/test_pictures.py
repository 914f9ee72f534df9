"""Contact sheets, learning curves and the floor that scores are compared with."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmvim.analysis.contact_sheet import IGNORED, SheetRow, colourise, contact_sheet
from mmvim.analysis.curves import Curve, plot_curves, read_curve
from mmvim.analysis.majority_floor import majority_floor

CLASSES, PALETTE = ('sky', 'tree', 'car'), ((0, 0, 255), (0, 255, 0), (255, 0, 0))


def row(height=20, width=30, value=0):
    labels = np.full((height, width), value, np.uint8)
    return SheetRow(np.full((height, width, 3), 128, np.uint8), labels, labels)


def test_colourise_marks_what_is_no_class():
    colours = colourise(np.array([[0, 2, 255]]), PALETTE)
    np.testing.assert_array_equal(colours, [[PALETTE[0], PALETTE[2], IGNORED]])


def test_contact_sheet_shows_truth_and_prediction(tmp_path):
    rows = [row(), row()._replace(prediction=np.full((20, 30), 2, np.uint8))]
    contact_sheet(tmp_path / 'sheet.png', rows, CLASSES, PALETTE, title='A title', cell_width=60)
    picture = np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB')).astype(int)
    blue = (np.abs(picture - PALETTE[0]).sum(-1) < 60).sum()
    red = (np.abs(picture - PALETTE[2]).sum(-1) < 60).sum()
    green = (np.abs(picture - PALETTE[1]).sum(-1) < 60).sum()
    cell = 60 * 40
    assert blue > 2.8 * cell and 0.9 * cell < red < 1.5 * cell
    assert green == 0, 'a class that does not occur is in the legend'


def test_contact_sheet_groups_make_it_wider(tmp_path):
    rows = [row() for _ in range(4)]
    for groups in (1, 2):
        contact_sheet(tmp_path / f'{groups}.png', rows, CLASSES, PALETTE, groups=groups, cell_width=60)
    one, two = (Image.open(tmp_path / f'{groups}.png').size for groups in (1, 2))
    assert two[0] > 1.8 * one[0] and two[1] < one[1]


@pytest.mark.parametrize(
    ('rows', 'palette', 'text'),
    [
        ([], PALETTE, 'at least one'),
        ([row()], PALETTE[:2], '3 classes but 2 colours'),
        ([row(), row()._replace(truth=np.zeros((5, 5), int))], PALETTE, 'row 1: .*differ in shape'),
    ],
)
def test_contact_sheet_refuses(rows, palette, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        contact_sheet(tmp_path / 'sheet.png', rows, CLASSES, palette)
    assert not (tmp_path / 'sheet.png').exists()


def test_read_curve(tmp_path):
    lines = [
        {'loss': 3.0, 'step': 10},
        {'loss': 2.0, 'step': 20},
        {'mIoU': 12.5, 'step': 20},
        {'loss': 1.5, 'step': 20},
    ]
    path = tmp_path / 'scalars.json'
    path.write_text('\n'.join(json.dumps(line) for line in lines) + '\n\n')
    curve = read_curve(path, 'loss')
    assert curve.steps.tolist() == [10, 20] and curve.values.tolist() == [3.0, 1.5]
    assert read_curve(path, 'mIoU').values.tolist() == [12.5]
    with pytest.raises(ValueError, match="no 'mAP'"):
        read_curve(path, 'mAP')
    path.write_text('{"loss": 1, "step": 1}\nnot json\n')
    with pytest.raises(ValueError, match='line 2'):
        read_curve(path, 'loss')


def test_plot_curves(tmp_path):
    loss, score = Curve(np.array([1, 2]), np.array([2.0, 1.0])), Curve(np.array([2]), np.array([50.0]))
    plot_curves(tmp_path / 'a.png', {'Vim': loss}, {'Vim': score}, floors={'floor': 3.0}, title='Two runs')
    plot_curves(tmp_path / 'b.png', {'Vim': loss}, {})
    a, b = (np.asarray(Image.open(tmp_path / name).convert('RGB')).astype(int) for name in ('a.png', 'b.png'))
    assert a.shape[1] == b.shape[1] == 960
    right = slice(500, None)
    assert (a[:, right] < 128).sum() > (b[:, right] < 128).sum(), 'the score is not drawn'
    with pytest.raises(ValueError, match='no curve'):
        plot_curves(tmp_path / 'c.png', {}, {})


def test_majority_floor_is_what_mmseg_computes():
    iou = pytest.importorskip('mmseg.evaluation').IoUMetric
    rng = np.random.default_rng(0)
    train = [rng.choice(5, size=(8, 8), p=[0.1, 0.2, 0.6, 0.1, 0.0]) for _ in range(3)]
    val = [rng.choice([0, 1, 2, 3, 255], size=(9, 7)) for _ in range(4)]
    floor = majority_floor(train, val, 5)
    areas = [iou.intersect_and_union(torch.full((9, 7), 2), torch.from_numpy(label), 5, 255) for label in val]
    expected = iou.total_area_to_metrics(*(sum(part) for part in zip(*areas, strict=True)), ['mIoU'])
    assert floor['class'] == 2
    assert floor['mIoU'] == pytest.approx(100 * np.nanmean(expected['IoU']), abs=1e-4)
    assert floor['aAcc'] == pytest.approx(100 * float(expected['aAcc']), abs=1e-4)


def test_majority_floor_of_a_class_that_never_occurs_is_zero():
    floor = majority_floor([np.zeros((2, 2), int)], [np.ones((2, 2), int)], 3)
    assert floor == {'class': 0, 'mIoU': 0.0, 'aAcc': 0.0}


@pytest.mark.parametrize(
    ('train', 'text'), [([np.full(3, 255)], 'no labelled pixel'), ([np.full(3, 7)], 'outside 0 to 2')]
)
def test_majority_floor_refuses(train, text):
    with pytest.raises(ValueError, match=f'train_labels .*{text}'):
        majority_floor(train, [np.zeros(3, int)], 3)
