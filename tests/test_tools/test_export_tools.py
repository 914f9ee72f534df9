"""mmvim export of a segmentor, a classifier and a backbone, and what it refuses; mmvim predict of what it wrote."""

import json
from collections import OrderedDict

import mmcv
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')

import onnx
from family_cases.vim import SMALL_VIM, published_vim

from mmvim import checkpoints
from mmvim.cli import UserError, load_config
from mmvim.cli.commands import export, predict
from mmvim.cli.model import build_model
from mmvim.deploy import Predictor, load_program


@pytest.fixture
def weights(seg, tmp_path):
    """A checkpoint of the segmentor, as MMEngine writes it."""
    torch.manual_seed(0)
    model = build_model(load_config(str(seg)))
    meta = {'dataset_meta': {'classes': ('sky', 'road', *map(str, range(148))), 'palette': [[1, 2, 3]] * 150}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth'


def said(file):
    """What a file says of itself."""
    return {entry.key.removeprefix('mmvim.'): entry.value for entry in onnx.load(file).metadata_props}


@pytest.mark.slow
def test_a_segmentor(seg, weights, ade, tmp_path, capsys):
    images = sorted(str(path) for path in (ade / 'images/validation').iterdir())
    out = tmp_path / 'seg.onnx'
    export.main([str(seg), '--checkpoint', str(weights), '--out', str(out), '--images', *images])
    printed = capsys.readouterr().out
    assert f'{out}: {out.stat().st_size / 1e6:.1f} MB, opset 18' in printed and '64 x 64: differs by' in printed
    found = said(out)
    assert found['task'] == 'labels' and json.loads(found['classes'])[:2] == ['sky', 'road']
    assert json.loads(found['preprocessing']) == {
        'mean': [123.675, 116.28, 103.53],
        'std': [58.395, 57.12, 57.375],
        'channels': 'RGB',
        'resize': {'scale': [64, 64], 'keep_ratio': True},
    }
    # MMSegmentation itself on a picture of another shape
    picture = mmcv.imread(images[0], channel_order='rgb')[:48]
    labels = Predictor(out)(picture).labels
    cfg = load_config(str(seg))
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(weights)['state_dict'])
    sizes = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (48, 64))
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=sizes, gt_sem_seg=PixelData(data=torch.zeros(1, 48, 64, dtype=torch.long)))
    bgr = torch.from_numpy(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)))
    with torch.no_grad():
        (result,) = model.test_step({'inputs': [bgr], 'data_samples': [sample]})
    agreeing = (result.pred_sem_seg.data[0].numpy() == labels).mean()
    assert labels.shape == (48, 64) and agreeing > 0.999
    capsys.readouterr()
    predict.main([str(out), images[0], '--out', str(tmp_path / 'out')])
    name = images[0].rsplit('/', 1)[1].replace('.jpg', '.png')
    assert np.asarray(Image.open(tmp_path / 'out' / name)).shape == (64, 64)
    assert '%' in capsys.readouterr().out


@pytest.mark.full
def test_scores_and_the_backbone(seg, weights, tmp_path, capsys):
    export.main([str(seg), '--checkpoint', str(weights), '--out', str(tmp_path / 'a.onnx'), '--result', 'scores'])
    assert said(tmp_path / 'a.onnx')['task'] == 'scores'
    assert Predictor(tmp_path / 'a.onnx')(np.zeros((40, 56, 3), np.uint8)).labels.shape == (40, 56)
    fixed = ['--part', 'backbone', '--fixed-size', '40', '56']
    export.main([str(seg), '--out', str(tmp_path / 'b.onnx'), *fixed])
    captured = capsys.readouterr()
    assert 'warning: no --checkpoint: the weights are untrained' in captured.err
    assert said(tmp_path / 'b.onnx')['task'] == 'features'
    (image,) = onnx.load(tmp_path / 'b.onnx').graph.input
    assert [size.dim_value for size in image.type.tensor_type.shape.dim] == [1, 3, 40, 56]


@pytest.mark.full
def test_a_published_classifier(tmp_path, monkeypatch):
    torch.save({'model': OrderedDict(published_vim(img_size=64))}, tmp_path / 'vim.pth')
    found = checkpoints.read(str(tmp_path / 'vim.pth'), arch=SMALL_VIM)
    view = checkpoints.preprocessing(found)
    # a small architecture has no name that a command line could give
    monkeypatch.setattr(checkpoints, 'read', lambda file, **options: found)
    export.main([str(tmp_path / 'vim.pth'), '--out', str(tmp_path / 'vim.onnx')])
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    scores = Predictor(tmp_path / 'vim.onnx')(picture).scores
    with torch.no_grad():
        expected = checkpoints.build_classifier(found)(view(picture)[None])[0].softmax(0).numpy()
    assert np.abs(scores - expected).max() < 1e-4
    assert said(tmp_path / 'vim.onnx')['task'] == 'classes'


UPERNET = """
_base_ = {base!r}
model = dict(
    backbone=dict(out_indices=(0, 1)),
    decode_head=dict(
        _delete_=True, type='UPerHead', in_channels=[16, 16], in_index=[0, 1], channels=16, num_classes=150,
        pool_scales=(1, 2, 3, 6), norm_cfg=dict(type='SyncBN')))
"""


@pytest.mark.full
def test_an_upernet_pools_maps_of_any_size(seg, tmp_path):
    (tmp_path / 'uper.py').write_text(UPERNET.format(base=str(seg)))
    export.main([str(tmp_path / 'uper.py'), '--out', str(tmp_path / 'a.onnx'), '--result', 'scores'])
    assert said(tmp_path / 'a.onnx')['task'] == 'scores'


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['{seg}', '--out', 'a.onnx', '--opset', '7'], '--opset 7 is not supported; give one of 18 to 23'),
        (['{seg}', '--out', 'a.pt'], 'a.pt ends neither in .onnx nor in .pt2'),
        (['{seg}', '--out', 'gone/a.onnx'], 'gone is no writable folder'),
        (['{seg}', '--out', 'a.onnx', '--part', 'backbone', '--result', 'scores'], '--result scores is of a whole seg'),
        (['{seg}', '--out', 'a.onnx', '--arch', 'tiny'], '--arch is an option of a published classifier'),
        (['{seg}', '--out', 'a.onnx', '--checkpoint', 'gone.pth'], '--checkpoint gone.pth does not exist'),
        (['{seg}', '--out', 'a.onnx', '--images', 'gone.jpg'], 'picture gone.jpg cannot be read'),
        (['gone.pth', '--out', 'a.onnx'], 'gone.pth'),
        (['a.pth', '--out', 'a.onnx', '--result', 'labels'], '--result is an option of a config'),
        (['{seg}', '--out', 'a.onnx', '--fixed-size', '0', '5'], '--fixed-size 0 5 is not two positive numbers'),
    ],
)
def test_mistakes_are_one_line(arguments, words, seg, tmp_path, monkeypatch, capsys):
    from mmvim.cli.main import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(['export', *(word.format(seg=seg) for word in arguments)])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('warning: ')]
    assert stop.value.code in (1, 2) and len(lines) == 1 and words in lines[0], lines
    assert not list(tmp_path.glob('**/*.onnx'))


def test_a_detector_is_exported_by_its_backbone(det, tmp_path, fails):
    text = fails(export.main, det, '--out', tmp_path / 'a.onnx', status=2)
    assert 'MaskRCNN cannot be exported as a whole; export its backbone: --part backbone' in text


def test_a_missing_extra(seg, tmp_path, fails, monkeypatch):
    from mmvim.deploy import errors

    monkeypatch.setattr(errors, 'find_spec', lambda name: None)
    text = fails(export.main, seg, '--out', tmp_path / 'a.onnx', status=1)
    assert text == 'error: onnx is not installed; pip install "mmvim[export]"'


@pytest.mark.slow
def test_a_program(seg, weights, ade, tmp_path, capsys):
    images = sorted(str(path) for path in (ade / 'images/validation').iterdir())
    out = tmp_path / 'seg.pt2'
    export.main([str(seg), '--checkpoint', str(weights), '--out', str(out), '--images', *images])
    assert f'{out}: {out.stat().st_size / 1e6:.1f} MB, PyTorch' in capsys.readouterr().out
    extra = {'mmvim.classes': ''}
    torch.export.load(out, extra_files=extra)
    assert json.loads(extra['mmvim.classes'])[:2] == ['sky', 'road']
    assert load_program(out)(torch.zeros(3, 3, 40, 56)).shape == (3, 40, 56)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--out', 'model.pb'], r'--out model\.pb ends neither in \.onnx nor in \.pt2; give a name that does'),
        (['--out', 'model.pt2', '--opset', '18'], r'--opset is of ONNX files, and --out is model\.pt2; leave it out'),
        (['--out', 'model.pt2', '--chunk', '8'], r'--chunk is of ONNX files, and --out is model\.pt2; leave it out'),
    ],
)
def test_what_does_not_fit_the_kind_of_file(arguments, message):
    with pytest.raises(UserError, match=message):
        export.main(['upernet_vim_t_ade20k', *arguments])
