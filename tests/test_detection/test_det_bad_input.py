"""Odd pictures and annotations are trained and tested on, or refused in one line before anything is written."""

import copy
import json
import math

import cv2
import numpy as np
import pytest
import small_detectors as small
from checkout import ROOT
from mmengine.runner import Runner

from scenes.classes import coco_categories

VITDET = 'mask_rcnn_vim_t_coco.py'
HIERARCHICAL = 'mask_rcnn_mambavision_t_coco.py'
CASCADE = 'cascade_mask_rcnn_mambavision_t_coco.py'
BOX = {'bbox': [10, 12, 30, 20], 'area': 600, 'segmentation': [[10, 12, 40, 12, 40, 32, 10, 32]], 'iscrowd': 0}
CATEGORIES = coco_categories()  # 1 is a person


def write_coco(root, pictures, annotations):
    """Data of the same two pictures for training and validation; each annotation names its picture by its place."""
    folder = root / 'annotations'
    folder.mkdir(parents=True)
    for split in ('train', 'val'):
        (root / f'{split}2017').mkdir()
        images = []
        for index, (name, picture) in enumerate(pictures):
            cv2.imwrite(str(root / f'{split}2017' / name), picture)
            images.append({'id': index, 'file_name': name, 'height': picture.shape[0], 'width': picture.shape[1]})
        content = [
            {'id': i + 1, 'image_id': place, 'category_id': 1, **item} for i, (place, item) in enumerate(annotations)
        ]
        (folder / f'instances_{split}2017.json').write_text(
            json.dumps({'images': images, 'annotations': content, 'categories': CATEGORIES})
        )
    return root


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def run(cfg):
    """Train for one iteration and validate; returns the loss."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert runner.iter == 1 and math.isfinite(loss)
    return loss


ORDINARY = ('plain.jpg', noise(60, 80, 3))
CROWD = {
    'bbox': [0, 0, 80, 30],
    'area': 2400,
    'iscrowd': 1,
    'segmentation': {'size': [60, 80], 'counts': [0, *([30, 30] * 80)]},
}
CASES = {
    'greyscale': ([ORDINARY, ('grey.jpg', noise(60, 80))], [(0, BOX), (1, BOX)]),
    'four channels': ([ORDINARY, ('alpha.png', noise(60, 80, 4))], [(0, BOX), (1, BOX)]),
    'a crowd': ([ORDINARY, ('crowd.jpg', noise(60, 80, 3))], [(0, BOX), (0, CROWD), (1, BOX), (1, CROWD)]),
    'nothing but a crowd': ([ORDINARY, ('crowd.jpg', noise(60, 80, 3))], [(0, BOX), (1, CROWD)]),
    'no boxes in one': ([ORDINARY, ('empty.jpg', noise(60, 80, 3))], [(0, BOX)]),
    'no boxes at all': ([ORDINARY, ('empty.jpg', noise(60, 80, 3))], []),
    'a box of no width': ([ORDINARY, ('thin.jpg', noise(60, 80, 3))], [(0, BOX), (1, {**BOX, 'bbox': [5, 5, 0, 9]})]),
}


@pytest.mark.slow
@pytest.mark.parametrize('file', [VITDET, HIERARCHICAL])
@pytest.mark.parametrize('case', CASES)
def test_trains_on(case, file, load, tmp_path):
    root = write_coco(tmp_path / 'data', *CASES[case])
    cfg = small.shrink(load(file), root, tmp_path / 'work', shallow=True)
    cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt = 'no boxes' not in case
    run(cfg)


STRIPS = [
    ('low.png', noise(1, 80, 3)),
    ('narrow.png', noise(80, 1, 3)),
    # resizing them alone leaves 0.04 of a pixel
    ('flat.png', noise(1, 4000, 3)),
    ('steep.png', noise(4000, 1, 3)),
]


def strips(root):
    """Pictures one pixel high or wide, each full of one object, and an ordinary one."""
    boxes = [[0, 0, picture.shape[1], picture.shape[0]] for _, picture in STRIPS]
    objects = [
        {**BOX, 'bbox': [x, y, w, h], 'area': w * h, 'segmentation': [[x, y, w, y, w, h, x, h]]} for x, y, w, h in boxes
    ]
    return write_coco(root, [*STRIPS, ORDINARY], [*enumerate(objects), (len(STRIPS), BOX)])


@pytest.mark.parametrize('file', [VITDET, HIERARCHICAL, CASCADE])
def test_pictures_one_pixel_high_or_wide(file, load, tmp_path):
    """Training leaves them out, as the recipe's data set says (min_size); the test predicts on each."""
    cfg = small.shrink(load(file), strips(tmp_path / 'data'), tmp_path / 'work', val=len(STRIPS) + 1, shallow=True)
    runner = Runner.from_cfg(cfg)
    kept = runner.train_dataloader.dataset
    assert [kept.get_data_info(i)['img_path'].rpartition('/')[2] for i in range(len(kept))] == ['plain.jpg']
    assert 'coco/segm_mAP' in runner.test()
    assert len(runner.test_dataloader.dataset) == len(STRIPS) + 1


@pytest.mark.slow
@pytest.mark.parametrize('file', [VITDET, HIERARCHICAL, CASCADE])
def test_strips_can_be_trained_on(file, load, tmp_path):
    """Where min_size=0 asks for it; flipped or not."""
    cfg = small.shrink(load(file), strips(tmp_path / 'data'), tmp_path / 'work', train=len(STRIPS), shallow=True)
    cfg.train_dataloader.update(batch_size=len(STRIPS), batch_sampler=None)
    cfg.train_dataloader.dataset.filter_cfg = {'filter_empty_gt': True, 'min_size': 0}
    cfg.model.train_cfg.rpn.allowed_border = -1  # as MMDetection then says: no anchor lies inside of a strip
    for flip in (0.0, 1.0):
        (step,) = (item for item in cfg.train_dataloader.dataset.pipeline if item['type'] == 'RandomFlip')
        step.prob = flip
        cfg.experiment_name = f'{tmp_path.name}_{flip}'
        run(cfg)


def tool(cfg, folder):
    cfg.experiment_name = folder.name
    return str(small.write(cfg, folder / f'{folder.name}.py'))


@pytest.fixture
def refuses(train, capsys, tmp_path, load):
    """Run tools/train.py on damaged data; the error line it stops with, nothing written."""
    from mmvim import cli

    def call(root, change=lambda cfg: None):
        cfg = small.shrink(load(VITDET), root, tmp_path / 'work', shallow=True)
        change(cfg)
        with pytest.raises(SystemExit) as stop:
            cli.run_tool(lambda: train.main([tool(cfg, tmp_path), '--work-dir', str(tmp_path / 'work')]))
        assert stop.value.code == 1 and not (tmp_path / 'work').exists()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
        return line

    return call


def test_annotations_that_leave_nothing(refuses, tmp_path):
    root = write_coco(tmp_path / 'data', [ORDINARY], [(0, BOX)])
    file = root / small.TRAIN
    good = json.loads(file.read_text())
    for change, words in (
        ({'annotations': []}, 'has no object in its 1 images, and filter_cfg.filter_empty_gt=True'),
        ({'images': []}, 'lists no image'),
        ({'categories': CATEGORIES[:2]}, 'lists 2 of the 80 classes of the data set among its categories, and not'),
        ({'annotations': [{**good['annotations'][0], 'segmentation': []}]}, 'has no segmentation in annotation 1'),
    ):
        file.write_text(json.dumps({**copy.deepcopy(good), **change}))
        line = refuses(root)
        assert f'{file} {words}' in line and 'train_dataloader.dataset.ann_file=PATH' in line
    file.write_text('[]')
    assert "has no list 'images'" in refuses(root)
    file.write_text('{"images": [')
    assert f'{file} is not JSON' in refuses(root)


def test_wrong_data_root(refuses, tmp_path):
    line = refuses(tmp_path / 'nowhere')
    assert f'{tmp_path}/nowhere/train2017/ does not exist' in line
    for option in ('train_dataloader.dataset.data_root', 'val_dataloader.dataset.data_root', 'val_evaluator.ann_file'):
        assert f'{option}=PATH' in line


def test_no_data_at_the_recipes_own_place(train, capsys, tmp_path, monkeypatch):
    """What a user sees who has not linked COCO yet."""
    from mmvim import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.run_tool(lambda: train.main([str(ROOT / 'configs/vitdet_vim_t_coco.py')]))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert 'data/coco/train2017/ does not exist' in line and 'train_dataloader.dataset.data_root=PATH' in line
    assert list(tmp_path.iterdir()) == []
