"""The data set on disk, and how stock MMSegmentation, MMDetection and pycocotools read it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from checkout import load_module

from mmvim.cli import UserError
from scenes import ADE_IDS, CLASSES, DemoSceneParams, read_record, write_demo_scenes
from scenes import writer as writer_module
from scenes.classes import THING_CATEGORIES, coco_categories, coco_ids
from scenes.outlines import box, polygons, run_lengths
from scenes.scene import Instance, Scene

PARAMS = DemoSceneParams(train=8, val=4, size=(64, 96), seed=2)
TOOL = Path(__file__).parents[2] / 'demo' / 'make_scenes.py'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'nested' / 'demo'
    calls = []
    assert write_demo_scenes(out, PARAMS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 12) for done in range(1, 13)]
    return out


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_same_parameters_same_bytes(scenes, tmp_path):
    write_demo_scenes(tmp_path / 'again', PARAMS)
    assert contents(tmp_path / 'again') == contents(scenes)


def test_scenes_do_not_depend_on_their_number(scenes, tmp_path):
    write_demo_scenes(tmp_path / 'fewer', PARAMS._replace(train=1, val=1))
    for name in ('images/training/ADE_train_00000001.jpg', 'annotations/validation/ADE_val_00000001.png'):
        path = f'ADEChallengeData2016/{name}'
        assert (tmp_path / 'fewer' / path).read_bytes() == (scenes / path).read_bytes()


def test_second_call_does_nothing(scenes):
    before = {p: p.stat().st_mtime_ns for p in scenes.rglob('*')}
    assert write_demo_scenes(scenes, PARAMS) is False
    assert {p: p.stat().st_mtime_ns for p in scenes.rglob('*')} == before


def test_layout(scenes):
    files = contents(scenes)
    for index in range(1, 9):
        picture = files[f'ADEChallengeData2016/images/training/ADE_train_{index:08d}.jpg']
        assert files[f'coco/train2017/{index:012d}.jpg'] == picture
        assert f'ADEChallengeData2016/annotations/training/ADE_train_{index:08d}.png' in files
    assert len(files) == 12 * 3 + 3
    record = json.loads(files['demo_scenes.json'])
    assert record['parameters'] == read_record(scenes) == PARAMS.record()
    label = cv2.imdecode(
        np.frombuffer(files['ADEChallengeData2016/annotations/training/ADE_train_00000001.png'], np.uint8), -1
    )
    assert label.shape == PARAMS.size and label.dtype == np.uint8


def test_every_class_in_both_splits(scenes):
    record = json.loads((scenes / 'demo_scenes.json').read_text())
    for split, number in (('training', 8), ('validation', 4)):
        pixels = record['splits'][split]['pixels']
        assert all(pixels[name] > 0 for name in CLASSES)
        assert sum(pixels.values()) == number * PARAMS.size[0] * PARAMS.size[1]
        total = np.zeros(256, int)
        for path in (scenes / 'ADEChallengeData2016' / 'annotations' / split).iterdir():
            total += np.bincount(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ravel(), minlength=256)
        assert {name: int(total[value]) for name, value in ADE_IDS.items()} == pixels


def test_ade20k_values_are_those_of_mmseg():
    ade = pytest.importorskip('mmseg.datasets').ADE20KDataset
    names = [name.strip() for name in ade.METAINFO['classes']]
    assert {name: value for name, value in ADE_IDS.items() if name != 'other'} == {
        name: names.index(name) + 1 for name in CLASSES
    }


def test_stock_mmseg_reads_it(scenes):
    datasets = pytest.importorskip('mmseg.datasets')
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = datasets.ADE20KDataset(
            data_root=str(scenes / 'ADEChallengeData2016'),
            data_prefix={'img_path': 'images/validation', 'seg_map_path': 'annotations/validation'},
            pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}, {'type': 'PackSegInputs'}],
        )
        assert len(dataset) == 4
        for index in range(4):
            item = dataset[index]
            path = Path(item['data_samples'].img_path)
            raw = cv2.imread(str(scenes / 'ADEChallengeData2016/annotations/validation' / f'{path.stem}.png'), -1)
            expected = np.where(raw == 0, 255, raw.astype(int) - 1)
            np.testing.assert_array_equal(item['data_samples'].gt_sem_seg.data[0].numpy(), expected)
            assert item['inputs'].shape == (3, *PARAMS.size)


def test_categories_are_cocos():
    coco = pytest.importorskip('mmdet.datasets').CocoDataset
    assert tuple(item['name'] for item in coco_categories()) == coco.METAINFO['classes']
    assert len({item['id'] for item in coco_categories()}) == 80
    ids = coco_ids()
    # The 91 numbers of the original list, eleven of which were never used
    assert (ids['person'], ids['stop sign'], ids['dog'], ids['sports ball'], ids['toothbrush']) == (1, 13, 18, 37, 90)
    assert set(THING_CATEGORIES) <= set(ids)


@pytest.mark.parametrize(('split', 'number'), [('train2017', 8), ('val2017', 4)])
def test_stock_mmdet_reads_it(scenes, split, number):
    datasets = pytest.importorskip('mmdet.datasets')
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = datasets.CocoDataset(
            data_root=str(scenes / 'coco'),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix={'img': f'{split}/'},
            pipeline=[
                {'type': 'LoadImageFromFile'},
                {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True},
                {'type': 'PackDetInputs'},
            ],
        )
        assert len(dataset) == number
        names = dataset.metainfo['classes']
        for index in range(number):
            instances = dataset[index]['data_samples'].gt_instances
            masks, boxes = instances.masks.to_ndarray().astype(bool), instances.bboxes.numpy()
            assert len(masks) == len(boxes) == len(instances.labels) > 0
            for mask, (x0, y0, x1, y1), label in zip(masks, boxes, instances.labels.tolist(), strict=True):
                assert box(mask) == [x0, y0, x1 - x0, y1 - y0]
                assert names[label] in THING_CATEGORIES


def test_pycocotools_decodes_exactly_the_visible_pixels(scenes):
    coco_module = pytest.importorskip('pycocotools.coco')
    ids, names = {}, {'person': 'person', 'car': 'car', 'boat': 'boat', 'stop sign': 'signboard', 'sports ball': 'ball'}
    for split, folder, prefix, first in (
        ('train2017', 'training', 'ADE_train', 0),
        ('val2017', 'validation', 'ADE_val', 100_000),
    ):
        coco = coco_module.COCO(str(scenes / 'coco' / 'annotations' / f'instances_{split}.json'))
        ids[split] = set(coco.imgs) | set(coco.anns)
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation['area'] >= 12
            assert box(mask) == annotation['bbox']
            name = coco.cats[annotation['category_id']]['name']
            stem = f'{prefix}_{annotation["image_id"] - first:08d}'
            label = cv2.imread(str(scenes / 'ADEChallengeData2016' / 'annotations' / folder / f'{stem}.png'), -1)
            assert (label[mask] == ADE_IDS[names.get(name, 'animal')]).all()
    assert not ids['train2017'] & ids['val2017']


def test_crowds_are_run_lengths():
    mask = np.zeros((6, 7), bool)
    mask[1:4, 2:5] = True
    scene = Scene(np.zeros((6, 7, 3), np.uint8), np.zeros((6, 7), np.uint8), [Instance('person', mask, True)])
    coco = {'images': [], 'annotations': []}
    writer_module._annotate(coco, scene, 5)
    (annotation,) = coco['annotations']
    assert annotation['iscrowd'] == 1 and annotation['area'] == 9 and annotation['bbox'] == [2, 1, 3, 3]
    assert annotation['segmentation'] == {'size': [6, 7], 'counts': [13, 3, 3, 3, 3, 3, 14]}


@pytest.mark.parametrize('seed', range(6))
def test_polygons_cover_exactly_the_mask(seed):
    mask_module = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(seed)
    mask = cv2.GaussianBlur(rng.random((40, 50)).astype(np.float32), (0, 0), 1.0 + seed / 2) > 0.5  # holes, corners
    outlines = polygons(mask)
    decoded = mask_module.decode(mask_module.merge(mask_module.frPyObjects(outlines, 40, 50)))
    np.testing.assert_array_equal(decoded.astype(bool), mask)
    runs = mask_module.frPyObjects({'size': [40, 50], 'counts': run_lengths(mask)}, 40, 50)
    np.testing.assert_array_equal(mask_module.decode(runs).astype(bool), mask)


@pytest.mark.parametrize(
    ('params', 'text'),
    [
        (DemoSceneParams(train=0), r'train must be .* got 0'),
        (DemoSceneParams(val=-3), r'val must be .* got -3'),
        (DemoSceneParams(size=(63, 200)), r'size must be .*63, 200'),
        (DemoSceneParams(size=(64, 4096)), r'size must be .*64, 4096'),
        (DemoSceneParams(seed=-1), r'seed must be .* got -1'),
    ],
)
def test_bad_parameters_write_nothing(params, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        write_demo_scenes(tmp_path / 'a' / 'b', params)
    assert not list(tmp_path.iterdir())


def test_other_files_are_never_touched(tmp_path):
    out = tmp_path / 'mine'
    out.mkdir()
    (out / 'thesis.txt').write_text('years of work')
    for force in (False, True):
        with pytest.raises(FileExistsError, match='holds other files'):
            write_demo_scenes(out, PARAMS, force=force)
    assert contents(tmp_path) == {'mine/thesis.txt': b'years of work'}
    with pytest.raises(FileExistsError, match='is a file'):
        write_demo_scenes(out / 'thesis.txt', PARAMS)


def test_other_parameters_need_force(tmp_path):
    first, second = PARAMS._replace(train=1, val=1), PARAMS._replace(train=1, val=1, seed=9)
    write_demo_scenes(tmp_path / 'demo', first)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match='--force'):
        write_demo_scenes(tmp_path / 'demo', second)
    assert contents(tmp_path) == before
    assert write_demo_scenes(tmp_path / 'demo', second, force=True)
    assert read_record(tmp_path / 'demo')['seed'] == 9 and len(list(tmp_path.iterdir())) == 1


def test_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer_module, '_annotate', fail)
    with pytest.raises(KeyboardInterrupt):
        write_demo_scenes(tmp_path / 'demo', PARAMS)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def tool():
    return load_module(TOOL)


def test_command_line(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ['--out', 'demo', '--train', '1', '--val', '1', '--size', '64', '64']
    tool.main(arguments)
    assert 'written to demo' in capsys.readouterr().out
    assert read_record('demo')['size'] == [64, 64]
    tool.main(arguments)
    assert 'already in demo' in capsys.readouterr().out
    with pytest.raises(UserError, match='--force'):
        tool.main(['--out', 'demo', '--train', '2'])
    with pytest.raises(UserError, match=r'size must be .*10, 64'):
        tool.main(['--out', 'other', '--size', '10', '64'])
    assert [path.name for path in tmp_path.iterdir()] == ['demo']


def test_command_line_error_is_one_line(tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(TOOL.parents[1])}
    done = subprocess.run(
        [sys.executable, str(TOOL), '--train', 'many'], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
