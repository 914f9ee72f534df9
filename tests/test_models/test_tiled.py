"""Tiles: where they lie, how their seams are blended, and that the map is that of the whole picture."""

import numpy as np
import pytest
import torch
from torch import nn

from mmvim.analysis.tiled import open_picture, predict_tiled
from mmvim.models import TiledSegmentor
from mmvim.models.tiled.blend import blended_blocks, lay_tiles
from mmvim.models.tiled.segmentor import check_tile, nearest

CPU = torch.device('cpu')


class Segmentor(nn.Module):
    """A segmentor as MMSegmentation's are called, of layers that are given."""

    align_corners = False

    def __init__(self, layers: nn.Module, classes: int = 4) -> None:
        super().__init__()
        self.layers, self.out_channels = layers, classes
        self.tiles: list[tuple[int, ...]] = []

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        assert not training
        return {'inputs': torch.stack([x.float() for x in data['inputs']]) / 255}

    def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
        assert metas[0]['img_shape'] == inputs.shape[2:]
        self.tiles.append(tuple(inputs.shape))
        return self.layers(inputs)

    def test_step(self, data):
        raise AssertionError('the tiles go to encode_decode')


def pointwise(classes: int = 4, channels: int = 3) -> Segmentor:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.Tanh(), nn.Conv2d(8, classes, 1))
    return Segmentor(layers, classes).eval()


def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(
        0, 256, (channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def whole(model: Segmentor, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.layers(x[None].float() / 255)[0]


@pytest.mark.parametrize('side', [1, 15, 16, 17, 31, 40, 97, 1000])
@pytest.mark.parametrize(('tile', 'overlap'), [(16, 0), (16, 1), (16, 5), (16, 8), (33, 16)])
def test_every_pixel_has_weights_that_sum_to_one(side, tile, overlap):
    axis = lay_tiles(side, tile, overlap)
    assert axis.starts[0] == 0 and axis.starts[-1] + axis.tile == side and axis.tile == min(tile, side)
    total = torch.zeros(side)
    for start, share in zip(axis.starts, axis.shares, strict=True):
        assert share.shape == (axis.tile,) and (share > 0).all()
        total[start : start + axis.tile] += share
    assert torch.allclose(total, torch.ones(side), atol=1e-6)
    for left, right in zip(axis.starts, axis.starts[1:], strict=False):
        assert left < right <= left + axis.tile - overlap, 'they share as much as was asked for'
    if side > tile:
        assert len(axis.starts) == -(-(side - overlap) // (tile - overlap)), 'and are no more than it takes'


def test_seams_are_ramps():
    """No step between one pixel and the next is larger than the ramp's."""
    axis = lay_tiles(100, 40, 20)
    for share in axis.shares:
        assert share.diff().abs().max() <= 1.01 / 20
    # The control: without overlap a tile ends at once.
    assert len(lay_tiles(80, 40, 0).starts) == 2 and (lay_tiles(80, 40, 0).shares[0] == 1).all()


@pytest.mark.parametrize('memory', [0, 20_000, 10**9])
@pytest.mark.parametrize(('height', 'width'), [(64, 64), (50, 131), (131, 50), (10, 90), (16, 16), (7, 9)])
def test_blocks_cover_the_picture_once(height, width, memory):
    """Of a model that looks at one pixel alone, each tile says the same of it, and so does the blend."""
    model, x = pointwise(), picture(height, width)
    rows, columns = lay_tiles(height, 16, 5), lay_tiles(width, 16, 5)
    expected, found, seen = whole(model, x), torch.zeros(4, height, width), torch.zeros(height, width)

    def logits_of(y, x0):
        return whole(model, x[:, y : y + rows.tile, x0 : x0 + columns.tile])

    for block in blended_blocks(logits_of, rows, columns, 4, memory, CPU):
        _, h, w = block.logits.shape
        assert memory < 10**9 or w == width, 'one panel where there is memory for it'
        found[:, block.row : block.row + h, block.column : block.column + w] = block.logits
        seen[block.row : block.row + h, block.column : block.column + w] += 1
    assert (seen == 1).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_panels_change_no_value():
    """Of a model that looks around, the blend depends on the tiles; how they are worked off does not matter."""
    torch.manual_seed(0)
    model = Segmentor(nn.Conv2d(3, 4, 7, padding=3)).eval()
    x, rows, columns = picture(90, 120), lay_tiles(90, 32, 8), lay_tiles(120, 32, 8)

    def run(memory):
        found, calls = torch.zeros(4, 90, 120), []

        def logits_of(y, x0):
            calls.append((y, x0))
            return whole(model, x[:, y : y + 32, x0 : x0 + 32])

        for block in blended_blocks(logits_of, rows, columns, 4, memory, CPU):
            _, h, w = block.logits.shape
            found[:, block.row : block.row + h, block.column : block.column + w] = block.logits
        return found, len(calls)

    (wide, few), (narrow, many) = run(10**9), run(4 * 32 * 4 * 50)
    assert torch.equal(wide, narrow) and few == len(rows.starts) * len(columns.starts) < many
    by_hand = torch.zeros(4, 90, 120)
    for y, down in zip(rows.starts, rows.shares, strict=True):
        for x0, across in zip(columns.starts, columns.shares, strict=True):
            part = whole(model, x[:, y : y + 32, x0 : x0 + 32])
            by_hand[:, y : y + 32, x0 : x0 + 32] += part * down[:, None] * across
    torch.testing.assert_close(wide, by_hand, rtol=1e-5, atol=1e-5)
    # Inside, where no tile's border is near, it is the whole picture's; nearer, a tile without context counts little.
    assert (wide - whole(model, x)).abs().mean() < (run_hard(model, x) - whole(model, x)).abs().mean()


def run_hard(model: Segmentor, x: torch.Tensor) -> torch.Tensor:
    """Tiles side by side, without overlap."""
    found = torch.zeros(4, *x.shape[1:])
    for y in range(0, x.shape[1], 32):
        for x0 in range(0, x.shape[2], 32):
            found[:, y : y + 32, x0 : x0 + 32] = whole(model, x[:, y : y + 32, x0 : x0 + 32])
    return found


@pytest.mark.parametrize(('height', 'width'), [(70, 45), (8, 100)])
def test_labels(height, width):
    model, x = pointwise(), picture(height, width)
    tiled = TiledSegmentor(model, tile=(24, 16), overlap=6, memory_mb=1)
    assert torch.equal(tiled.labels(x), whole(model, x).argmax(0).to(torch.int16))
    assert {shape[2:] for shape in model.tiles} == {(min(24, height), 16)}


def test_one_class():
    """As MMSegmentation decides it: a threshold of the sigmoid."""
    model, x = pointwise(classes=1), picture(40, 40)
    model.decode_head = nn.Identity()
    model.decode_head.threshold = 0.6
    found = TiledSegmentor(model, tile=16).labels(x)
    assert torch.equal(found, (whole(model, x)[0].sigmoid() > 0.6).to(torch.int16))


@pytest.mark.parametrize('kind', ['array', 'npy', 'npy-first', 'tif', 'tif-planar', 'tif-compressed', 'grey'])
def test_a_picture_of_a_file_into_a_file(kind, tmp_path):
    channels = 1 if kind == 'grey' else 5
    model, x = pointwise(channels=channels), picture(50, 70, channels)
    array, options = x.permute(1, 2, 0).numpy(), {}
    given = array[..., 0] if kind == 'grey' else array
    if kind.startswith('npy'):
        given = tmp_path / 'a.npy'
        np.save(given, array)
    elif kind.startswith('tif'):
        tifffile = pytest.importorskip('tifffile')
        given = tmp_path / 'a.tif'
        planar = kind == 'tif-planar'
        tifffile.imwrite(
            given,
            array.transpose(2, 0, 1) if planar else array,
            photometric='minisblack',
            planarconfig='separate' if planar else 'contig',
            compression='zlib' if kind == 'tif-compressed' else None,
        )
        assert isinstance(open_picture(given), np.memmap) == (kind != 'tif-compressed')
    if kind == 'npy-first':
        from mmvim.datasets.load_bands import LoadImageBands

        np.save(tmp_path / 'a.npy', array.transpose(2, 0, 1))
        given = open_picture(tmp_path / 'a.npy', LoadImageBands(layout='first'))
        assert isinstance(given, np.memmap)
    done = []
    found = predict_tiled(
        model, given, tile=32, out=tmp_path / 'out.npy', progress=lambda d, total: done.append((d, total)), **options
    )
    assert isinstance(found, np.memmap) and found.dtype == np.int16
    assert np.array_equal(found, whole(model, x).argmax(0).numpy()) and done[-1] == (3500, 3500)
    assert np.array_equal(predict_tiled(model, given, tile=32), found) and not model.training
    predict_tiled(model.train(), given, tile=32)
    assert model.training, 'as it was'
    assert {p.name for p in tmp_path.iterdir()} <= {'a.npy', 'a.tif', 'out.npy'}


def test_nothing_is_left_of_a_failure(tmp_path):
    model = pointwise()
    model.encode_decode = None

    def fail(inputs, metas):
        raise RuntimeError('out of memory')

    model.encode_decode = fail
    with pytest.raises(RuntimeError, match='out of memory'):
        predict_tiled(model, np.zeros((40, 40, 3), np.uint8), tile=16, out=tmp_path / 'out.npy')
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r'must end in \.npy'):
        predict_tiled(model, np.zeros((40, 40, 3), np.uint8), out=tmp_path / 'out.png')
    with pytest.raises(ValueError, match=r'must be \(H, W, C\), got \(2, 3, 4, 5\)'):
        predict_tiled(model, np.zeros((2, 3, 4, 5)))


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ({'tile': 8}, 'tile=8 must be'),
        ({'tile': (32, 32, 32)}, 'must be one or two'),
        ({'tile': 32, 'overlap': 17}, 'overlap=17 must be a whole number from 0 to half of the tile, 16'),
        ({'tile': 32, 'overlap': -1}, 'overlap=-1'),
        ({'memory_mb': 0}, 'memory_mb=0'),
        ({'pretrained': 'a.pth'}, 'pretrained is of the segmentor'),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        TiledSegmentor(pointwise(), **options)


def test_no_segmentor():
    class Classifier(nn.Module):
        def test_step(self, data): ...

    with pytest.raises(TypeError, match='Classifier has none'):
        TiledSegmentor(Classifier())


def test_sizes():
    assert check_tile(64, None) == ((64, 64), 16) and check_tile([64, 96], 8) == ((64, 96), 8)
    labels = torch.arange(12).reshape(3, 4)
    assert torch.equal(nearest(labels, (6, 8)), labels.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert nearest(labels, (3, 4)) is labels and nearest(labels, (1, 2)).tolist() == [[5, 7]]
