"""Pictures that are missing, empty, truncated, damaged or no pictures, in data sets of both toolboxes."""

import io
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from mmvim.datasets.readable import ReadablePipeline, UnreadableFileError, looks_whole, picture_problem
from mmvim.engine.hooks import UnreadableFilesHook

PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8), (96, 96))
KINDS = {
    'jpg': {'format': 'JPEG'},
    'progressive.jpg': {'format': 'JPEG', 'progressive': True, 'quality': 95},
    'png': {'format': 'PNG'},
    'bmp': {'format': 'BMP'},
    'webp': {'format': 'WEBP'},
}


def encode(kind):
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, **KINDS[kind])
    return stream.getvalue()


@pytest.mark.parametrize('kind', KINDS)
def test_formats(tmp_path, kind):
    data, path = encode(kind), tmp_path / f'picture.{kind}'
    path.write_bytes(data)
    assert looks_whole(str(path)) and picture_problem(str(path)) is None
    path.write_bytes(data + bytes(1000))  # as some cameras do
    assert picture_problem(str(path)) is None
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * share)])
        assert not looks_whole(str(path))
        assert 'truncated' in picture_problem(str(path)) or 'damaged' in picture_problem(str(path))
    path.write_bytes(b'')
    assert not looks_whole(str(path)) and picture_problem(str(path)) == 'is empty'
    path.write_bytes(b'<html>not found</html>' * 10)
    assert picture_problem(str(path)) == 'is no picture (220 bytes)'


def identity(results):
    return results


def test_other_errors_pass():
    def broken(results):
        raise KeyError('img_shape')

    with pytest.raises(KeyError, match='img_shape'):
        ReadablePipeline(broken, 'skip')({'img_path': __file__})


def test_a_limit(tmp_path):
    pipeline = ReadablePipeline(identity, 'skip', limit=2)
    for name in 'abab':
        assert pipeline({'img_path': str(tmp_path / f'{name}.jpg')}) is None
    with pytest.raises(UnreadableFileError, match=r'3 pictures cannot be read, of which .*c\.jpg does not exist'):
        pipeline({'img_path': str(tmp_path / 'c.jpg')})
    assert pipeline.skips == 5


def test_the_error_comes_out_of_a_worker():
    """A data worker sends its error as a pickle, and as a text with which the error is made anew."""
    error = UnreadableFileError('a.jpg is empty')
    assert str(pickle.loads(pickle.dumps(error))) == str(UnreadableFileError(str(error))) == 'a.jpg is empty'


@pytest.mark.parametrize(('arguments', 'words'), [({'action': 'go'}, "action='go'"), ({'limit': 0}, 'limit=0')])
def test_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        UnreadableFilesHook(**arguments)
    with pytest.raises(ValueError, match=words):
        ReadablePipeline(identity, **{'action': 'stop', **arguments})


def segmentation(root):
    pytest.importorskip('mmseg')
    from mmseg.datasets import ADE20KDataset

    for folder in ('images', 'masks'):
        (root / folder).mkdir()
    for index in range(4):
        cv2.imwrite(str(root / 'images' / f'{index}.jpg'), PICTURE)
        cv2.imwrite(str(root / 'masks' / f'{index}.png'), PICTURE[..., 0] % 4)
    pipeline = [{'type': 'mmseg.LoadImageFromFile'}, {'type': 'mmseg.LoadAnnotations'}]
    return lambda **settings: ADE20KDataset(
        data_root=str(root),
        data_prefix={'img_path': 'images', 'seg_map_path': 'masks'},
        pipeline=pipeline,
        **settings,
    )


def detection(root):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='mmcv was built without its ops, which mmdet needs')
    from mmdet.datasets import CocoDataset
    from mmengine.fileio import dump

    (root / 'images').mkdir()
    for index in range(4):
        cv2.imwrite(str(root / 'images' / f'{index}.jpg'), PICTURE)
    box = {'bbox': [1, 1, 9, 9], 'area': 81, 'iscrowd': 0, 'category_id': 1}
    sizes = {'height': 96, 'width': 96}
    content = {
        'images': [{'id': i, 'file_name': f'{i}.jpg', **sizes} for i in range(4)],
        'annotations': [{'id': i + 1, 'image_id': i, **box} for i in range(4)],
        'categories': [{'id': 1, 'name': 'thing'}],
    }
    dump(content, root / 'all.json')
    pipeline = [{'type': 'mmdet.LoadImageFromFile'}, {'type': 'mmdet.LoadAnnotations', 'with_bbox': True}]
    return lambda **settings: CocoDataset(
        data_root=str(root),
        ann_file='all.json',
        data_prefix={'img': 'images/'},
        metainfo={'classes': ('thing',)},
        pipeline=pipeline,
        **settings,
    )


def guard(dataset, action, stage='train'):
    hook = UnreadableFilesHook(action)
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(train_dataloader=loader, val_dataloader=loader, test_dataloader=loader, train_loop=None)
    getattr(hook, f'before_{stage}')(runner)
    return hook


FAULTS = {
    'truncated': lambda path: path.write_bytes(path.read_bytes()[:-700]),
    'empty': lambda path: path.write_bytes(b''),
    'no picture': lambda path: path.write_bytes(b'<html>'),
    'does not exist': lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ('make', 'file', 'fault'),
    [
        *((segmentation, 'jpg', fault) for fault in FAULTS),
        (segmentation, 'png', 'truncated'),
        (segmentation, 'png', 'empty'),
        (detection, 'jpg', 'truncated'),
        (detection, 'jpg', 'empty'),
    ],
)
def test_data_sets(tmp_path, make, file, fault):
    from mmengine.dataset import RepeatDataset

    datasets = make(tmp_path)
    bad = tmp_path / ('images' if file == 'jpg' else 'masks') / f'2.{file}'
    train, skipping, test = datasets(), datasets(), datasets(test_mode=True)
    FAULTS[fault](bad)  # after the data sets have listed their files
    guard(RepeatDataset(train, times=2), 'stop')
    with pytest.raises(UnreadableFileError) as error:
        train[2]
    assert str(error.value).startswith(f'{bad} ') and fault in str(error.value)
    assert train[1]['img'].shape == PICTURE.shape

    hook = guard(RepeatDataset(skipping, times=2), 'skip')
    np.random.seed(0)
    assert skipping[2]['img_path'] != str(bad.with_suffix('.jpg'))
    assert hook.skips >= 1
    guard(test, 'skip', 'test')  # a test must see every picture
    with pytest.raises(UnreadableFileError, match=bad.name):
        test[2]


@pytest.mark.parametrize('make', [segmentation, detection])
def test_pictures_that_can_be_read_are_as_before(tmp_path, make):
    datasets = make(tmp_path)
    plain, guarded = datasets(), datasets()
    hook = guard(guarded, 'skip')
    for index in range(4):
        assert np.array_equal(plain[index]['img'], guarded[index]['img'])
    assert hook.skips == 0 and [type(t) for t in guarded.pipeline.transforms] == [
        type(t) for t in plain.pipeline.transforms
    ]
