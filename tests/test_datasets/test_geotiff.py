"""GeoTIFF as other tools write it: values that stand for no measurement, and files that differ within a data set."""

import numpy as np
import pytest
import torch

from mmvim.analysis.tiled import predict_tiled
from mmvim.cli.errors import UserError
from mmvim.cli.faults import run_errors
from mmvim.datasets.bands import stated_nodata
from mmvim.datasets.errors import BandsError
from mmvim.datasets.load_bands import LoadImageBands
from mmvim.datasets.readable import ReadablePipeline, UnreadableFileError, picture_problem
from mmvim.registry import MODELS

tifffile = pytest.importorskip('tifffile')

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(1, 120, (24, 40, 5))
NODATA = {np.uint8: '255', np.int16: '-32768', np.uint16: '0', np.float32: '-3.4028234663852886e+38', np.float64: 'nan'}


def write(path, picture, nodata=None, **options):
    """Write a file with the tag in which GDAL says what stands for no measurement."""
    tags = [] if nodata is None else [(42113, 's', 0, nodata, True)]
    options = {'planarconfig': 'contig', **options}
    tifffile.imwrite(path, picture, photometric='minisblack', extratags=tags, **options)
    return str(path)


def holes(dtype, nodata):
    """A picture without measurements at one corner of every band, and at one more place of the last."""
    picture = PICTURE.astype(dtype)
    picture[0, 0] = picture[5, 7, 4] = np.dtype(dtype).type(float(nodata))
    return picture


@pytest.mark.parametrize('planar', ['contig', 'separate'])
@pytest.mark.parametrize(('dtype', 'nodata'), NODATA.items())
def test_what_the_file_says_stands_for_no_measurement(dtype, nodata, planar, tmp_path):
    picture = holes(dtype, nodata)
    data = picture if planar == 'contig' else picture.transpose(2, 0, 1)
    path = write(tmp_path / 'a.tif', data, nodata, planarconfig=planar)
    assert np.array_equal(stated_nodata(path, path), float(nodata), equal_nan=True)
    with pytest.raises(BandsError, match=r'a\.tif has 6 values that .*; give fill') as error:
        LoadImageBands().read(path)
    assert ('GDAL_NODATA' in str(error.value)) == (nodata != 'nan')
    found = LoadImageBands(fill=3).read(path)
    assert found.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    assert (found[0, 0] == 3).all() and found[5, 7, 4] == 3 and np.isfinite(found).all()
    found[0, 0] = found[5, 7, 4] = 0
    expected = PICTURE.copy()
    expected[0, 0] = expected[5, 7, 4] = 0
    assert np.array_equal(found, expected), 'the rest is as it was'


def test_only_the_bands_that_are_read_count(tmp_path):
    picture = PICTURE.astype(np.int16)
    picture[3, 4, 2] = -9999
    path = write(tmp_path / 'a.tif', picture, '-9999')
    assert np.array_equal(LoadImageBands(bands=(4, 0)).read(path), PICTURE[..., [4, 0]])
    with pytest.raises(ValueError, match='has 1 values that stand for no measurement'):
        LoadImageBands(bands=(2, 0)).read(path)
    # What the config says goes before what the file says.
    found = LoadImageBands(nodata=int(PICTURE[0, 0, 0]), fill=0.5).read(path)
    assert found[3, 4, 2] == -9999 and found[0, 0, 0] == 0.5
    # A value that the numbers of a file cannot have is none of theirs.
    assert np.array_equal(LoadImageBands().read(write(tmp_path / 'b.tif', PICTURE.astype(np.uint16), '-9999')), PICTURE)
    assert stated_nodata(write(tmp_path / 'c.tif', PICTURE.astype(np.uint16), 'none'), 'c.tif') is None


def test_of_two_files_each_has_its_own(tmp_path):
    (tmp_path / 'rgb').mkdir()
    (tmp_path / 'depth').mkdir()
    colours, depth = PICTURE[..., :3].astype(np.uint8), PICTURE[..., 3:4].astype(np.uint16)
    depth[2, 2] = 0
    colours[1, 1, 0] = 0
    path = write(tmp_path / 'rgb/a.tif', colours)
    write(tmp_path / 'depth/a.tif', depth[..., 0], '0', planarconfig=None)
    beside = {'/rgb/': '/depth/'}
    with pytest.raises(ValueError, match='has 1 values that stand for no measurement'):
        LoadImageBands(beside=beside).read(path)
    found = LoadImageBands(beside=beside, fill=7).read(path)
    assert found[2, 2, 3] == 7 and found[1, 1, 0] == 0, '0 of the colours is black'


def test_numbers_beyond_float32_are_none(tmp_path):
    path = write(tmp_path / 'a.tif', np.full((8, 8, 5), 1e300))
    with pytest.raises(ValueError, match='has 320 values that are no numbers'):
        LoadImageBands().read(path)
    assert (LoadImageBands(fill=1).read(path) == 1).all()


@pytest.mark.parametrize('fill', [float('nan'), float('inf')])
def test_a_fill_that_is_no_number(fill):
    with pytest.raises(ValueError, match='must be a finite number'):
        LoadImageBands(fill=fill)


@pytest.mark.parametrize('fill', [-1, 256, 0.5])
def test_a_fill_that_is_no_byte(fill, tmp_path):
    path = write(tmp_path / 'a.tif', holes(np.uint8, '255'), '255')
    with pytest.raises(ValueError, match=rf'fill={fill} is no byte, and .*a\.tif holds bytes'):
        LoadImageBands(fill=fill).read(path)


class Sums(torch.nn.Conv2d):
    """A segmentor of two classes: whether the bands sum to more than 300."""

    out_channels = 2

    def __init__(self):
        super().__init__(5, 2, 1)
        self.weight.data = torch.stack([torch.zeros(5), torch.ones(5)])[..., None, None]
        self.bias.data = torch.tensor([0.0, -300.0])

    def test_step(self, data): ...

    def data_preprocessor(self, data, training):
        return {'inputs': torch.stack(data['inputs']).float()}

    def encode_decode(self, inputs, metas):
        return self(inputs)


@pytest.mark.parametrize(('dtype', 'nodata'), NODATA.items())
def test_a_large_picture_is_read_likewise(dtype, nodata, tmp_path):
    """By tiles of a file that is mapped, and the same as of one that is read whole."""
    picture = holes(dtype, nodata)
    path, compressed = (
        write(tmp_path / name, picture, nodata, compression=kind) for name, kind in (('a.tif', None), ('b.tif', 'zlib'))
    )
    for file in (path, compressed):
        with pytest.raises(ValueError, match=r'[ab]\.tif.* has \d values that .*; give fill'):
            predict_tiled(Sums(), file, tile=16, out=tmp_path / 'out.npy')
    assert not (tmp_path / 'out.npy').exists()
    whole = PICTURE.copy()
    whole[0, 0] = whole[5, 7, 4] = 200
    for file in (path, compressed):
        found = predict_tiled(Sums(), file, tile=16, loader=LoadImageBands(fill=200))
        assert np.array_equal(found, whole.sum(2) > 300)
    chosen = predict_tiled(Sums(), path, tile=16, loader=LoadImageBands(bands=(4, 3, 2, 1, 1), fill=200))
    assert np.array_equal(chosen, whole[..., [4, 3, 2, 1, 1]].sum(2) > 300)


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.float32])
def test_a_readable_file_is_no_bad_picture(dtype, tmp_path):
    """Pillow reads no TIFF of five bands: what is wrong with the values must not end as 'no picture', or be skipped."""
    path = write(tmp_path / 'a.tif', PICTURE.astype(dtype), compression='zlib')
    assert picture_problem(path) is None
    bad = write(tmp_path / 'bad.tif', holes(np.float32, 'nan'))
    with pytest.raises(ValueError, match='values that are no numbers'):
        ReadablePipeline(LoadImageBands(), 'skip')({'img_path': bad})
    np.save(tmp_path / 'a.npy', PICTURE.astype(dtype))
    assert picture_problem(str(tmp_path / 'a.npy')) is None


@pytest.mark.parametrize('name', ['a.tif', 'a.npy'])
def test_a_damaged_file_is_named_or_skipped(name, tmp_path):
    path = tmp_path / name
    if name == 'a.tif':
        write(path, PICTURE.astype(np.uint16), compression='zlib')
    else:
        np.save(path, PICTURE)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableFileError, match=rf'{name} is .*; replace it'):
        ReadablePipeline(LoadImageBands(), 'stop')({'img_path': str(path)})
    pipeline = ReadablePipeline(LoadImageBands(), 'skip')
    assert pipeline({'img_path': str(path)}) is None and pipeline.skips == 1


@pytest.mark.parametrize(('library', 'kind'), [('mmseg', 'SegBandsPreprocessor'), ('mmdet', 'DetBandsPreprocessor')])
def test_a_file_of_other_bands_than_the_rest_is_named(library, kind, tmp_path):
    pytest.importorskip(library)
    from mmengine.structures import BaseDataElement

    loader, paths = LoadImageBands(), [str(tmp_path / f'{name}.tif') for name in 'abc']
    for path, bands in zip(paths, (5, 5, 4), strict=True):
        write(path, PICTURE[..., :bands].astype(np.uint16))
    inputs = [torch.from_numpy(loader.read(path)).permute(2, 0, 1) for path in paths]
    samples = [BaseDataElement(metainfo={'img_path': path}) for path in paths]
    preprocess = MODELS.build({'type': f'mmvim.{kind}', 'mean': [1.0] * 5, 'std': [2.0] * 5})
    with pytest.raises(BandsError, match=r'a picture of 4 bands \(.*c\.tif\) comes to .* with 5 means'):
        preprocess({'inputs': inputs, 'data_samples': samples}, False)


class Files(torch.utils.data.Dataset):
    def __init__(self, *paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return LoadImageBands().read(self.paths[index])


def test_a_data_worker_tells_the_same(tmp_path):
    path = write(tmp_path / 'a.tif', holes(np.int16, '-32768'), '-32768')
    loader = torch.utils.data.DataLoader(Files(path), num_workers=1, timeout=60)
    with pytest.raises(UserError) as error, run_errors(str(tmp_path)):
        list(loader)
    assert str(error.value) == (
        f'{path} has 6 values that stand for no measurement (GDAL_NODATA); give fill, the value to stand in their place'
    )
