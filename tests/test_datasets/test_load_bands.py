"""Pictures of any number of bands: from file to array, to the model's input, and to the screen."""

import cv2
import numpy as np
import pytest
import torch
from checkout import need

from mmvim.datasets.bands import as_rgb, decode_bands
from mmvim.datasets.load_bands import LoadImageBands
from mmvim.registry import MODELS, TRANSFORMS

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 65536, (24, 40, 5)).astype(np.uint16)


def load(path, **options):
    return LoadImageBands(**options)({'img_path': str(path)})


@pytest.fixture
def npy(tmp_path):
    np.save(tmp_path / 'field.npy', PICTURE)
    return tmp_path / 'field.npy'


@pytest.mark.parametrize('layout', ['last', 'first'])
def test_npy(layout, tmp_path):
    np.save(tmp_path / 'a.npy', PICTURE if layout == 'last' else PICTURE.transpose(2, 0, 1))
    found = load(tmp_path / 'a.npy', layout=layout)
    assert found['img_shape'] == found['ori_shape'] == (24, 40)
    assert found['img'].dtype == np.float32 and np.array_equal(found['img'], PICTURE)
    assert found['img'].flags.c_contiguous


@pytest.mark.parametrize('planar', ['contig', 'separate'])
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32])
def test_geotiff(planar, compression, dtype, tmp_path):
    tifffile = pytest.importorskip('tifffile')
    picture = PICTURE.astype(dtype)
    data = picture if planar == 'contig' else picture.transpose(2, 0, 1)
    # ModelPixelScale and ModelTiepoint, as every GeoTIFF has them.
    tags = [(33550, 'd', 3, (10.0, 10.0, 0.0), False), (33922, 'd', 6, (0.0,) * 3 + (5e5, 4e6, 0.0), False)]
    tifffile.imwrite(
        tmp_path / 'a.tif', data, planarconfig=planar, photometric='minisblack', compression=compression, extratags=tags
    )
    found = load(tmp_path / 'a.tif')['img']
    assert found.dtype == (np.uint8 if dtype is np.uint8 else np.float32) and np.array_equal(found, picture)


def test_a_band_a_page(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    tifffile.imwrite(tmp_path / 'pages.tif', PICTURE.transpose(2, 0, 1), photometric='minisblack')
    assert np.array_equal(load(tmp_path / 'pages.tif')['img'], PICTURE)
    tifffile.imwrite(tmp_path / 'one.tiff', PICTURE[..., 0])
    assert load(tmp_path / 'one.tiff')['img'].shape == (24, 40, 1)
    tifffile.imwrite(tmp_path / 'four.tif', np.zeros((2, 3, 8, 9), np.uint16), photometric='minisblack')
    with pytest.raises(ValueError, match=r'four\.tif has the axes .* a picture has rows, columns and bands'):
        load(tmp_path / 'four.tif')


def test_depth_and_colours(tmp_path):
    """16 bits stay 16 bits; colours come red first, whatever OpenCV does."""
    cv2.imwrite(str(tmp_path / 'depth.png'), PICTURE[..., 0])
    assert np.array_equal(load(tmp_path / 'depth.png')['img'][..., 0], PICTURE[..., 0])
    colours = PICTURE[..., :3].astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'colours.png'), colours[..., ::-1])
    assert np.array_equal(load(tmp_path / 'colours.png')['img'], colours)
    (tmp_path / 'depth').mkdir()
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), colours[..., ::-1])
    cv2.imwrite(str(tmp_path / 'depth' / 'a_d.png'), PICTURE[..., 3])
    both = load(tmp_path / 'images' / 'a.png', beside={'/images/': '/depth/', 'a.png': 'a_d.png'})['img']
    assert both.dtype == np.float32
    assert np.array_equal(both, np.concatenate([colours.astype(np.float32), PICTURE[..., 3:4]], 2))
    cv2.imwrite(str(tmp_path / 'depth' / 'a_d.png'), PICTURE[:9, :, 3])
    with pytest.raises(ValueError, match='9 x 40 pixels'):
        load(tmp_path / 'images' / 'a.png', beside={'/images/': '/depth/', 'a.png': 'a_d.png'})
    with pytest.raises(ValueError, match="has none of '/rgb/'"):
        load(tmp_path / 'images' / 'a.png', beside={'/rgb/': '/depth/'})


def test_bands_are_chosen_in_order(npy):
    assert np.array_equal(load(npy, bands=(4, 0, 0))['img'], PICTURE[..., [4, 0, 0]])
    with pytest.raises(ValueError, match=r'has 5 bands, 0 to 4, and .* asks for 5'):
        load(npy, bands=(0, 5))


def test_pixels_without_a_measurement(tmp_path):
    picture = np.ones((4, 4, 2), np.float32)
    picture[0, 0] = -9999, 7
    picture[1, 1, 1] = np.nan
    np.save(tmp_path / 'a.npy', picture)
    with pytest.raises(ValueError, match='has 1 values that are no numbers'):
        load(tmp_path / 'a.npy')
    found = load(tmp_path / 'a.npy', nodata=-9999, fill=0.5)['img']
    assert found[0, 0].tolist() == [0.5, 7] and found[1, 1].tolist() == [1, 0.5] and np.isfinite(found).all()
    np.save(tmp_path / 'b.npy', np.array([[0, 255]], np.uint8))
    found = load(tmp_path / 'b.npy', nodata=255, fill=3)['img']
    assert found.dtype == np.uint8 and found.ravel().tolist() == [0, 3]


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'layout': 'middle'}, "layout='middle' is not one of 'last', 'first'"),
        ({'bands': ()}, 'bands=.* must be numbers'),
        ({'bands': (0, -1)}, 'must be whole numbers from 0'),
        ({'bands': 'rgb'}, "bands='rgb' must be numbers"),
        ({'nodata': 0}, 'nodata=0 needs fill'),
        ({'beside': {}}, 'beside={} changes nothing'),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        LoadImageBands(**options)


def test_bad_files(tmp_path, monkeypatch):
    for name, content, text in (
        ('a.npy', b'', 'is no array that NumPy reads'),
        ('a.npy', b'no array', 'is no array that NumPy reads'),
        ('a.tif', b'no picture', 'cannot be read as TIFF'),
        ('a.png', b'no picture', 'is no picture that OpenCV reads'),
        ('a.png', b'', 'is no picture that OpenCV reads'),
    ):
        with pytest.raises(ValueError, match=text):
            decode_bands(content, name)
    np.save(tmp_path / 'objects.npy', np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ValueError, match='without pickle'):
        load(tmp_path / 'objects.npy')
    np.save(tmp_path / 'line.npy', np.zeros(3))
    with pytest.raises(ValueError, match=r'has 1 axes \(3,\)'):
        load(tmp_path / 'line.npy')
    monkeypatch.setitem(__import__('sys').modules, 'tifffile', None)
    with pytest.raises(ImportError, match=r'needs tifffile: pip install mmvim\[bands\]'):
        decode_bands(b'', 'a.tif')


def test_shown_in_three_bands():
    bytes_ = PICTURE.astype(np.uint8)
    assert np.array_equal(as_rgb(bytes_, (3, 1, 0)), bytes_[..., [3, 1, 0]])
    grey = as_rgb(PICTURE[..., :1])
    assert grey.shape == (24, 40, 3) and np.array_equal(grey[..., 0], grey[..., 2])
    ramp = np.arange(101, dtype=np.float32).reshape(1, 101, 1)
    assert as_rgb(ramp, percent=(0, 100))[0, [0, 50, 100], 0].tolist() == [0, 128, 255]
    shown = as_rgb(np.where(ramp == 3, np.nan, ramp))
    assert shown[0, [0, 3, 100], 0].tolist() == [0, 0, 255]
    assert not as_rgb(np.full((2, 2, 1), 7.0)).any(), 'one value everywhere'
    with pytest.raises(ValueError, match='shown in three'):
        as_rgb(PICTURE, (0, 1))


@pytest.mark.parametrize(('scope', 'pack'), [('mmseg', 'PackSegInputs'), ('mmdet', 'PackDetInputs')])
def test_through_a_pipeline_and_a_preprocessor(scope, pack, npy):
    """Flipped, resized, packed and normalised by the mean of each band, in both libraries."""
    need(scope)
    from mmcv.transforms import Compose
    from mmengine.registry import init_default_scope

    init_default_scope(scope)
    steps = [
        {'type': 'mmvim.LoadImageBands'},
        {'type': 'Resize', 'scale': (80, 48), 'keep_ratio': True},
        {'type': 'RandomFlip', 'prob': 1.0},
        {'type': pack},
    ]
    packed = Compose([TRANSFORMS.build(step) for step in steps])({'img_path': str(npy), 'img_id': 0})
    assert packed['inputs'].shape == (5, 48, 80) and packed['inputs'].dtype == torch.float32
    exact = cv2.resize(PICTURE.astype(np.float32), (80, 48))[:, ::-1].transpose(2, 0, 1)
    assert np.allclose(packed['inputs'].numpy(), exact, atol=0.1)
    mean, std = [1000.0 * i for i in range(5)], [10.0 + i for i in range(5)]
    kind = {'mmseg': 'mmvim.SegBandsPreprocessor', 'mmdet': 'mmvim.DetBandsPreprocessor'}[scope]
    extra = {'size': (64, 96)} if scope == 'mmseg' else {'pad_size_divisor': 32}
    preprocess = MODELS.build({'type': kind, 'mean': mean, 'std': std, **extra})
    batch = preprocess({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}, scope == 'mmdet')
    found = batch['inputs'][0][:, :48, :80]
    expected = (packed['inputs'] - torch.tensor(mean).view(5, 1, 1)) / torch.tensor(std).view(5, 1, 1)
    assert torch.allclose(found, expected) and batch['inputs'].shape[1] == 5
    assert not preprocess.state_dict(), 'means are no weights'
    with pytest.raises(ValueError, match=r'a picture of 3 bands \(.*field\.npy\) comes to .* with 5 means'):
        preprocess({'inputs': [packed['inputs'][:3]], 'data_samples': [packed['data_samples']]}, False)
    for options, text in (
        ({'mean': mean, 'std': std[:4]}, 'got 5 and 4'),
        ({'mean': mean, 'std': [0.0] * 5}, 'must be positive'),
        ({'mean': mean, 'std': std, 'bgr_to_rgb': True}, 'bgr_to_rgb=True exchanges colours of 3 bands'),
        ({'mean': [], 'std': []}, 'got 0 and 0'),
    ):
        with pytest.raises(ValueError, match=text):
            MODELS.build({'type': kind, **options})
    with pytest.raises(TypeError, match='size_divisors'):
        MODELS.build({'type': kind, 'mean': mean, 'std': std, 'size_divisors': 32})
