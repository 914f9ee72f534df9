"""``mmvim demo``: overlays with legends of pictures, folders, videos and webcams, by tiny models of three kinds."""

import json

import cv2
import demo_models as models
import numpy as np
import pytest
import tiny_runs as tiny
from PIL import Image

from mmvim.analysis import media
from mmvim.analysis.overlay import OverlayPainter
from mmvim.cli.commands import demo

THREE = {'classes': ['red', 'green', 'blue']}


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """Config and checkpoint of a segmentor of ADE20K's 150 classes."""
    folder = tmp_path_factory.mktemp('segmentor')
    config = tiny.seg_config(folder / 'seg.py', folder)
    return config, models.save_weights(config, folder / 'seg.pth')


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    pytest.importorskip('mmcv._ext', reason='mmcv was built without its ops, which mmdet needs')
    folder = tmp_path_factory.mktemp('detector')
    tiny.make_coco(folder / 'coco')
    config = tiny.det_config(folder / 'det.py', folder / 'coco')
    return config, models.save_weights(config, folder / 'det.pth', THREE)


@pytest.fixture(scope='module')
def panoptic(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp('panoptic')
    config = models.panoptic_config(folder / 'pan.py', detector[0])
    return config, models.save_weights(config, folder / 'pan.pth')


def drawn(path):
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def run(model, *arguments):
    demo.main([*map(str, model), *map(str, arguments)])


def test_a_segmentor_paints_each_pixel_in_the_colour_of_its_class(segmentor, tmp_path, capsys):
    source = models.picture(tmp_path / 'a.png', 400, 330)
    run(segmentor, source, '--out', tmp_path / 'out', '--opacity', 0.5)
    assert 'Predicting: 1/1' in capsys.readouterr().out
    sheet = drawn(tmp_path / 'out/a.png')
    painter = OverlayPainter(models.load(segmentor[0]), str(segmentor[1]), opacity=0.5)
    result = painter(np.asarray(Image.open(source)))
    assert result.labels.shape == (330, 400) and len(painter.classes) == 150 == len(painter.palette)
    expected = 0.5 * drawn(source) + 0.5 * np.array(painter.palette)[result.labels]
    assert np.abs(sheet[:330] - expected).max() <= 1
    # the legend has a patch of each class, the most frequent first
    assert {found.name for found in result.found} == {painter.classes[i] for i in np.unique(result.labels)}
    assert sum(found.share for found in result.found) == pytest.approx(1)
    legend = sheet[330:].reshape(-1, 3)
    assert len(legend) and all((legend == found.colour).all(1).sum() > 50 for found in result.found)


def test_a_folder_with_odd_pictures(segmentor, tmp_path, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    models.picture(folder / 'grey.png', mode='L')
    models.picture(folder / 'transparent.png', mode='RGBA')
    models.picture(folder / 'dot.png', 1, 1)
    models.picture(folder / 'line.png', 700, 1)
    models.picture(folder / 'column.bmp', 2, 300)
    models.picture(folder / 'name.png')
    models.picture(folder / 'name.bmp')
    (folder / 'cut.jpg').write_bytes(b'\xff\xd8\xff\xe0 no more')
    (folder / 'notes.txt').write_text('no picture')
    run(segmentor, folder, '--out', tmp_path / 'out')
    words = capsys.readouterr()
    assert 'cut.jpg is' in words.err and 'left out' in words.err and '7 drawn' in words.out
    sizes = {path.name: Image.open(path).size for path in (tmp_path / 'out').iterdir()}
    assert set(sizes) == {
        'grey.png', 'transparent.png', 'dot.png', 'line.png', 'column.png', 'name.png', 'name.png.png',
    }  # fmt: skip
    assert sizes['dot.png'][0] == 320 and sizes['line.png'][0] == 700 and sizes['column.png'][1] > 300
    assert all(height > 20 and width >= 160 for width, height in sizes.values())


def test_a_huge_picture_is_shrunk_and_tiles_keep_its_pixels(segmentor, tmp_path):
    source = models.picture(tmp_path / 'wide.png', 3000, 200)
    run(segmentor, source, '--out', tmp_path / 'small', '--max-side', 600)
    assert Image.open(tmp_path / 'small/wide.png').size[0] == 600
    args = demo._parse_args([*map(str, segmentor), 'a.png', '--tile', '64', '--max-side', '400'])
    result = demo.build_painter(args)(np.asarray(Image.open(source))[:100, :500])
    assert result.labels.shape == (100, 500) and result.overlay.shape == (80, 400, 3)


def test_instances_above_the_threshold_are_drawn_and_counted(detector, tmp_path):
    source = models.picture(tmp_path / 'a.png', 90, 60)
    painter = OverlayPainter(models.load(detector[0]), str(detector[1]), score_thr=0.35)
    image = np.asarray(Image.open(source))
    result = painter(image)
    sample = painter.inferencer([image[..., ::-1].copy()], return_datasamples=True)['predictions'][0].pred_instances
    kept = sample[sample.scores >= 0.35]
    assert len(sample) > len(kept) > 0
    assert {one.name: one.count for one in result.found} == {
        name: n for name, n in zip(painter.classes, kept.labels.bincount(minlength=3).tolist(), strict=True) if n
    }
    assert max(one.score for one in result.found) == pytest.approx(float(kept.scores.max()), abs=1e-4)
    assert result.overlay.shape == (240, 360, 3)  # enlarged to be drawn on
    plain = cv2.resize(image, (360, 240), interpolation=cv2.INTER_NEAREST)
    assert (np.abs(result.overlay.astype(int) - plain).sum(-1) > 30).mean() > 0.01
    run(detector, source, '--out', tmp_path / 'none', '--score-thr', 1)
    nothing = drawn(tmp_path / 'none/a.png')
    assert np.array_equal(nothing[:240], plain)


@pytest.mark.parametrize('size', [(1, 1), (300, 1)])
def test_instances_of_odd_pictures_lie_inside(detector, size):
    painter = OverlayPainter(models.load(detector[0]), str(detector[1]), score_thr=0.0)
    result = painter(np.zeros((size[1], size[0], 3), np.uint8))
    assert result.overlay.shape[1] >= 300


def test_panoptic_segments(panoptic, tmp_path):
    source = models.picture(tmp_path / 'a.png', 400, 330)
    painter = OverlayPainter(models.load(panoptic[0]), str(panoptic[1]))
    assert painter.task == 'panoptic' and painter.classes[3:] == ['sky', 'sea']
    result = painter(np.asarray(Image.open(source)))
    assert result.labels.shape == (330, 400) and result.found
    for one in result.found:
        index = painter.classes.index(one.name)
        assert one.share == pytest.approx((result.labels == index).mean())
        assert (one.count is None) == (index >= 3)
    run(panoptic, source, '--out', tmp_path / 'out')
    sheet = drawn(tmp_path / 'out/a.png')
    assert sheet.shape[0] > 330 and np.abs(sheet[:330] - drawn(source)).mean() > 10


def make_video(path, frames=4):
    video = media.VideoFile(path, rate=5)
    for index in range(frames):
        video.add(np.full((64, 96, 3), 60 * index, np.uint8))
    video.close()
    return path


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found, capture.get(cv2.CAP_PROP_FPS)


def test_a_video_and_a_webcam(segmentor, tmp_path, monkeypatch, capsys):
    source = make_video(tmp_path / 'drive.mp4')
    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, 'VideoCapture', lambda what: opened(str(source) if what == 1 else what))
    run(segmentor, source, 'webcam:1', '--out', tmp_path / 'out', '--frames', 3)
    frames, rate = frames_of(tmp_path / 'out/drive.mp4')
    assert len(frames) == 3 and rate == 5
    assert frames[0].shape[0] > 213 and frames[0].shape[1] == 384  # 4 x 96, and a legend below
    assert len(frames_of(tmp_path / 'out/webcam1.mp4')[0]) == 3
    assert 'drive: 3/3' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'words', 'status'),
    [
        (['gone.jpg'], 'gone.jpg does not exist', 2),
        (['notes.txt'], 'notes.txt is of no known kind', 2),
        (['empty'], 'empty holds neither pictures nor videos', 2),
        (['bad.png'], 'bad.png is no picture', 2),
        (['bad.mp4'], 'bad.mp4 cannot be opened as a video', 1),
        (['webcam:x'], 'webcam:x names no camera', 2),
        (['webcam:63'], 'camera 63 cannot be opened', 1),
        (['a.png', '--opacity', '2'], '--opacity must be from 0 to 1, got 2.0', 2),
        (['a.png', '--score-thr', '-1'], '--score-thr must be from 0 to 1', 2),
        (['a.png', '--max-side', '3'], '--max-side must be 16 pixels or more, got 3', 2),
        (['a.png', '--frames', '0'], '--frames 0 is not a positive number', 2),
        (['a.png', '--device', 'cuda:77'], '--device cuda:77', 1),
        (['a.png', '--out', 'notes.txt'], '--out notes.txt is a file', 2),
    ],
)
def test_mistakes_of_the_demo(segmentor, arguments, words, status, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    models.picture(tmp_path / 'a.png')
    (tmp_path / 'empty').mkdir()
    for name in ('notes.txt', 'bad.png', 'bad.mp4'):
        (tmp_path / name).write_text('nothing of the kind')
    if '--frames' in arguments:  # of argparse, which names the help
        with pytest.raises(SystemExit) as stop:
            run(segmentor, *arguments)
        assert stop.value.code == 2
        return
    assert words in fails(demo.main, *segmentor, *arguments, status=status)


def test_names_and_colours_where_the_checkpoint_and_the_config_lack_them(segmentor, tmp_path):
    cfg = models.load(segmentor[0])
    cfg.model.decode_head.num_classes = 5
    path = tmp_path / 'five.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    weights = models.save_weights(path, tmp_path / 'five.pth')
    painter = OverlayPainter(models.load(path), str(weights))
    assert painter.classes == [f'class {index}' for index in range(5)]
    assert len(set(painter.palette)) == 5
    named = models.save_weights(path, tmp_path / 'named.pth', {'classes': list('abcde'), 'palette': [[1, 2, 3]]})
    painter = OverlayPainter(models.load(path), str(named))
    assert painter.classes == list('abcde') and painter.palette[0] == (1, 2, 3) and len(set(painter.palette)) == 5


def test_a_pipeline_of_another_loader_is_refused(segmentor, fails, tmp_path):
    options = json.dumps('LoadBiomedicalImageFromFile')
    line = fails(
        demo.main, *segmentor, models.picture(tmp_path / 'a.png'),
        '--cfg-options', f'test_dataloader.dataset.pipeline.0.type={options}', status=2,
    )  # fmt: skip
    assert 'LoadBiomedicalImageFromFile' in line and 'LoadImageFromFile or LoadImageBands' in line


def test_bands_are_for_models_of_bands(segmentor, fails, tmp_path):
    source = models.picture(tmp_path / 'a.png')
    line = fails(demo.main, *segmentor, source, '--bands', '0', '1', '2', status=2)
    assert 'bands=(0, 1, 2) are chosen, and the model takes pictures of three colours' in line
    np.save(tmp_path / 'b.npy', np.zeros((32, 32, 5), np.uint16))
    line = fails(demo.main, *segmentor, tmp_path / 'b.npy', status=2)
    assert 'b.npy is of no known kind; names end in .jpg' in line
    run(segmentor, tmp_path, '--out', tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.png'], 'an array beside pictures is none'
