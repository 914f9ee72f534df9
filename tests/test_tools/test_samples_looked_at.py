"""What a look at ten samples shows: labels beyond the classes, masks of other sizes, files that cannot be read."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
import tiny_runs as tiny
from mmengine.config import Config

from mmvim.cli.data import annotation_problem, find_datasets, reads_annotations

ANNOTATIONS = {'LoadAnnotations', 'LoadPanopticAnnotations', 'LoadTrackAnnotations', 'LoadDepthAnnotation'}
ANNOTATIONS |= {'LoadBiomedicalAnnotation'}


@pytest.fixture
def own_ade(ade, tmp_path):
    """The tiny data set, for a test to change, and a config of it."""
    root = tmp_path / 'data'
    shutil.copytree(ade, root)
    return root, tiny.seg_config(tmp_path / f'own_{tmp_path.name}.py', root)


def masks(root: Path, split: str = 'training') -> list[Path]:
    return sorted((root / 'annotations' / split).iterdir())


def rewrite(files: list[Path], change) -> None:
    for file in files:
        cv2.imwrite(str(file), change(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)))


def test_what_there_is(train, own_ade, capsys, tmp_path):
    """Labels 1 to 4 in the files, and reduce_zero_label takes 1 off."""
    train.main([str(own_ade[1]), '--check', '--work-dir', str(tmp_path / 'work')])
    assert capsys.readouterr().out.splitlines() == [
        'train_dataloader.dataset: 5 of 5 samples looked at, labels 0, 1, 2, 3',
        'val_dataloader.dataset: 2 of 2 samples looked at, labels 0, 1, 2, 3',
    ]
    assert not (tmp_path / 'work').exists()


def test_labels_beyond_the_classes(train, fails, own_ade, tmp_path):
    root, config = own_ade
    arguments = (
        train.main,
        config,
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        'model.decode_head.num_classes=3',
    )
    line = fails(*arguments, status=2)
    assert 'has the label 3, and model.decode_head.num_classes=3 leaves 0 to 2' in line and 'reduce_zero_label' in line
    rewrite(masks(root)[-1:], lambda mask: np.where(mask == 1, 200, mask))
    line = fails(train.main, config, '--work-dir', tmp_path / 'work', status=2)
    assert f'{masks(root)[-1]} has the label 199, and model.decode_head.num_classes=150' in line
    assert not (tmp_path / 'work').exists()


def test_foreground_of_255(train, own_ade, capsys, tmp_path):
    """It is ignored, so that training learns nothing; with reduce_zero_label the background is ignored as well."""
    root, config = own_ade
    rewrite(masks(root), lambda mask: np.where(mask == 1, 1, 255).astype(np.uint8))
    train.main([str(config), '--check', '--work-dir', str(tmp_path / 'work')])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('warning: the masks of train')]
    assert 'that were looked at hold 0, 254, and' not in line and 'class 0 alone can be learned' in line


def test_everything_ignored(train, fails, own_ade, tmp_path):
    root, config = own_ade
    rewrite(masks(root), lambda mask: np.zeros_like(mask))  # "other", which reduce_zero_label makes 255
    line = fails(train.main, config, '--work-dir', tmp_path / 'work', status=2)
    assert 'every pixel of the masks of train_dataloader.dataset that were looked at is ignored (label 255)' in line


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda mask: mask[:40], 'has 40 x 64 pixels, and its picture 64 x 64'),
        (lambda mask: np.stack([mask] * 3, -1), 'is a colour picture of shape (64, 64, 3)'),
    ],
)
def test_masks_of_another_shape(train, fails, own_ade, tmp_path, change, words):
    root, config = own_ade
    rewrite(masks(root)[:1], change)
    assert words in fails(train.main, config, '--work-dir', tmp_path / 'work', status=1)


def test_a_picture_that_cannot_be_read(train, fails, own_ade, tmp_path):
    root, config = own_ade
    sorted((root / 'images/training').iterdir())[0].write_bytes(b'')
    line = fails(train.main, config, '--work-dir', tmp_path / 'work', status=1)
    assert 'sample 0 of train_dataloader.dataset cannot be read' in line


def test_transforms_that_fail(train, fails, own_ade, tmp_path):
    """Only `--check` runs the whole pipeline."""
    _, config = own_ade
    wrong = config.with_name('wrong.py')
    wrong.write_text(
        f"_base_ = './{config.name}'\npipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), "
        "dict(type='Resize', scale_factor=1e-4), dict(type='PackSegInputs')]\n"
        'train_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    assert 'cannot be read' in fails(train.main, wrong, '--check', '--work-dir', tmp_path / 'work', status=1)


def test_classes_of_a_detector(train, fails, det, tmp_path):
    arguments = (train.main, det, '--work-dir', tmp_path / 'work', '--cfg-options')
    line = fails(*arguments, 'model.roi_head.bbox_head.num_classes=4', status=2)
    assert 'model.roi_head.bbox_head.num_classes=4, and train_dataloader.dataset.dataset has 3 classes' in line
    line = fails(*arguments, 'model.roi_head.bbox_head.num_classes=2', status=2)
    assert 'has the label 2, and model.roi_head.bbox_head.num_classes=2 leaves 0 to 1' in line


FIVE = "data_preprocessor=dict(_delete_=True, type='mmvim.{}BandsPreprocessor', mean=[100] * 5, std=[50] * 5)"


@pytest.mark.parametrize('fixture', ['seg', 'det'])
@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (
            FIVE + ', backbone=dict(in_channels=5)',
            'has 3 bands, and model.data_preprocessor has mean and std for 5; give it 3 of each',
        ),
        ('backbone=dict(in_channels=5)', 'has 3 bands, and model.backbone takes 5; set model.backbone.in_channels=3'),
    ],
    ids=['means', 'channels'],
)
def test_pictures_of_other_bands(train, fails, fixture, request, change, words, tmp_path):
    """Whether a check is asked for or a run, whose first iteration would end in it."""
    config = request.getfixturevalue(fixture)
    other = config.with_name('other.py')
    other.write_text(f"_base_ = './{config.name}'\nmodel = dict({change.format(fixture.title())})\n")
    asked = ['--check'] if fixture == 'seg' else []
    line = fails(train.main, other, *asked, '--work-dir', tmp_path / 'work', status=2)
    assert words in line and 'mmvim.LoadImageBands' in line
    assert not (tmp_path / 'work').exists()


def test_bands_of_a_picture_with_transparency(train, fails, own_ade, tmp_path):
    """Loaded as they are, some pictures have a fourth band."""
    root, config = own_ade
    config.write_text(config.read_text().replace("'LoadImageFromFile'", "'LoadImageFromFile', color_type='unchanged'"))
    train.main([str(config), '--check', '--work-dir', str(tmp_path / 'work')])
    picture = sorted((root / 'images/training').iterdir())[2]
    cv2.imwrite(str(root / 'clear.png'), np.zeros((64, 64, 4), np.uint8))
    (root / 'clear.png').replace(picture)
    line = fails(train.main, config, '--work-dir', tmp_path / 'work', status=2)
    assert f'{picture} has 4 bands, and model.data_preprocessor has mean and std for 3' in line


def boxes_of(root: Path, change) -> None:
    """Change the boxes of COCO's annotations, by a function of the number and the box."""
    file = root / 'instances.json'
    content = json.loads(file.read_text())
    for number, item in enumerate(content['annotations']):
        item['bbox'] = change(number, item['bbox'])
    file.write_text(json.dumps(content))


def test_boxes_outside_of_their_picture(train, fails, coco, tmp_path, capsys):
    """MMDetection leaves them out without a word; where none is left, it trains to nothing."""
    root = tmp_path / 'coco'
    shutil.copytree(coco, root)
    config = tiny.det_config(tmp_path / f'det_{tmp_path.name}.py', root)
    boxes_of(root, lambda number, box: {0: [200, 8, 20, 20], 1: [4, 4, 20, 0]}.get(number, box))
    train.main([str(config), '--check', '--work-dir', str(tmp_path / 'work')])
    warned = [line for line in capsys.readouterr().err.splitlines() if 'boxes' in line]
    assert len(warned) == 2, 'one for the training and one for the validation'
    assert re.search(r'2 of the \d+ boxes of .*annotation 1 has \[200, 8, 20, 20\]', warned[0])
    boxes_of(root, lambda number, box: [0.1, 0.1, 0.5, 0.5])
    line = fails(train.main, config, '--work-dir', tmp_path / 'work', status=1)
    assert 'has no box of a pixel or more inside of a picture: bbox is [left, top, width, height] in pixels' in line


def test_a_test_set_without_masks(evaluate, own_ade, tmp_path, capsys):
    """As MMSegmentation has it for test servers: nothing reads a mask, and none need be there."""
    import torch

    from mmvim import cli

    root, config = own_ade
    shutil.rmtree(root / 'annotations/validation')
    bare = config.with_name('bare.py')
    bare.write_text(
        f"_base_ = './{config.name}'\ntest_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackSegInputs')]))\n"
        f"test_evaluator = dict(type='IoUMetric', format_only=True, output_dir={str(tmp_path / 'out')!r})\n"
    )
    weights = tmp_path / 'weights.pth'
    torch.save({'state_dict': cli.build_model(cli.load_config(str(config))).state_dict()}, weights)
    evaluate.main([str(bare), str(weights), '--check', '--work-dir', str(tmp_path / 'work')])
    assert capsys.readouterr().out == 'test_dataloader.dataset: 2 of 2 samples looked at\n'
    evaluate.main([str(bare), str(weights), '--work-dir', str(tmp_path / 'work')])
    assert len(list((tmp_path / 'out').iterdir())) == 2


def test_panoptic_annotations(tmp_path):
    """An annotation is a picture's, with the objects in it."""
    file = tmp_path / 'panoptic.json'
    content = {
        'images': [{'id': 1, 'file_name': 'a.jpg'}],
        'categories': [{'id': 5, 'name': 'cat', 'isthing': 1}],
        'annotations': [{'image_id': 1, 'file_name': 'a.png', 'segments_info': [{'id': 9, 'category_id': 5}]}],
    }
    setting = {'filter_cfg': {'filter_empty_gt': True}, 'pipeline': [{'type': 'LoadPanopticAnnotations'}]}.get
    file.write_text(json.dumps(content))
    assert annotation_problem(str(file), setting, {'classes': ('cat',)}) is None
    content['annotations'][0]['segments_info'] = []
    file.write_text(json.dumps(content))
    assert 'has no object in its 1 images' in annotation_problem(str(file), setting, {'classes': ('cat',)})


def stock_data_sets():
    """The data sets of every base config of MMSegmentation and MMDetection that trains."""
    for library in ('mmseg', 'mmdet'):
        found = find_spec(library)
        if found is None:
            continue
        folder = Path(found.origin).parent / '.mim' / 'configs' / '_base_' / 'datasets'
        for file in sorted(folder.glob('*.py')):
            yield pytest.param(file, id=f'{library}-{file.stem}')


@pytest.mark.parametrize('file', list(stock_data_sets()))
def test_stock_data_sets_are_told_apart(file):
    """Every training pipeline reads annotations; so does one of a test that is scored on masks."""
    cfg = Config.fromfile(file)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if not isinstance(loader, mmengine.ConfigDict):
            continue
        for node, _ in find_datasets(loader.get('dataset'), (name,)):
            if node.get('pipeline'):
                kinds = re.findall(r"'type': '(Load\w+)'", str(node.pipeline))
                assert reads_annotations(node.pipeline) == any(kind in ANNOTATIONS for kind in kinds), kinds
