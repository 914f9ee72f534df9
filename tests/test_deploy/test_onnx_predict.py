"""Exported models run on pictures, and in a process that has no PyTorch."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('onnxscript', reason='the extra "export" is not installed')

from checkout import ROOT

from mmvim.checkpoints import View
from mmvim.cli.errors import UserError
from mmvim.cli.main import main
from mmvim.deploy import Predictor, export_onnx
from mmvim.deploy.predict import normalise, read_picture, resize
from mmvim.deploy.recipe import IMAGENET, as_metadata, config_preprocessing

CLASSES, PALETTE = ['dark', 'bright'], [[0, 0, 0], [255, 200, 100]]
PLAIN = {'mean': [0.0] * 3, 'std': [255.0] * 3, 'channels': 'RGB', 'resize': None}


class Bright(nn.Module):
    """Which pixels are bright; ``task`` is what is returned of it."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def logits(self, image):
        grey = image.mean(1, keepdim=True)
        return torch.cat([0.5 - grey, grey - 0.5], 1)  # (B, 2, H, W)

    def forward(self, image):
        scores = self.logits(image)
        if self.task == 'labels':
            return scores.argmax(1)
        return scores.mean((2, 3)) if self.task == 'classes' else scores


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """A file for each task."""
    folder, files = tmp_path_factory.mktemp('models'), {}
    for task in ('labels', 'scores', 'classes', 'features'):
        files[task] = folder / f'{task}.onnx'
        metadata = as_metadata('1', task, PLAIN, CLASSES, PALETTE)
        export_onnx(Bright(task), files[task], sizes=((16, 24), (24, 16)), metadata=metadata)
    return files


@pytest.fixture
def image(tmp_path):
    """A picture whose right third is bright."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / 'picture.png')
    return tmp_path / 'picture.png'


def test_segmentation(models, image):
    picture = read_picture(image)
    for task in ('labels', 'scores'):
        predictor = Predictor(models[task], threads=1)
        labels = predictor(picture).labels
        assert labels.shape == (20, 30) and (labels == (picture[..., 0] > 0)).all()
        assert predictor.paint(labels)[0, -1].tolist() == PALETTE[1] and predictor.name(1) == 'bright'


def test_classification_and_features(models, image):
    picture = read_picture(image)
    scores = Predictor(models['classes'])(picture).scores
    assert scores.shape == (2,) and abs(scores.sum() - 1) < 1e-6 and scores[0] > scores[1]
    assert Predictor(models['features'])(picture).outputs['output'].shape == (1, 2, 20, 30)


def test_resized_pictures_get_labels_of_their_own_size(image, tmp_path):
    recipe = {**PLAIN, 'resize': {'scale': [60, 60], 'keep_ratio': True}}
    for task in ('labels', 'scores'):
        export_onnx(Bright(task), tmp_path / 'a.onnx', sizes=((16, 24),), metadata=as_metadata('1', task, recipe))
        predictor = Predictor(tmp_path / 'a.onnx')
        assert predictor.prepare(read_picture(image)).shape == (3, 40, 60)
        labels = predictor(read_picture(image)).labels
        assert labels.shape == (20, 30) and labels[:, :19].max() == 0 and labels[:, 21:].min() == 1
        assert predictor.name(1) == 'class 1' and predictor.paint(labels).shape == (20, 30, 3)


@pytest.mark.parametrize('size', [(37, 91), (91, 37), (64, 64)])
def test_pictures_are_prepared_as_in_training(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = resize(picture, {'scale': [128, 96], 'keep_ratio': True})
    expected = mmcv.imrescale(picture, (128, 96))
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1
    view = View(48, 0.875, 'bicubic')
    recipe = {**IMAGENET, 'resize': {'short': 54, 'crop': 48, 'squash': False, 'interpolation': 'bicubic'}}
    np.testing.assert_allclose(normalise(resize(picture, recipe['resize']), recipe), view(picture), atol=1e-5)
    recipe['resize']['squash'] = True
    view = View(48, 0.875, 'bicubic', 'squash')
    np.testing.assert_allclose(normalise(resize(picture, recipe['resize']), recipe), view(picture), atol=1e-5)


def test_what_configs_say():
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'ResizeEdge', 'scale': 256, 'edge': 'short', 'interpolation': 'bicubic'},
        {'type': 'CenterCrop', 'crop_size': 224},
    ]
    cfg = {
        'model': {},
        'data_preprocessor': {'mean': [1, 2, 3], 'std': [4, 5, 6], 'to_rgb': True},
        'test_dataloader': {'dataset': {'pipeline': pipeline}},
    }
    expected = {'short': 256, 'crop': 224, 'squash': False, 'interpolation': 'bicubic'}
    assert config_preprocessing(cfg) == {
        'mean': [1.0, 2.0, 3.0],
        'std': [4.0, 5.0, 6.0],
        'channels': 'RGB',
        'resize': expected,
    }
    cfg['test_dataloader']['dataset']['pipeline'] = [{'type': 'mmseg.Resize', 'scale': (2048, 512), 'keep_ratio': True}]
    assert config_preprocessing(cfg)['resize'] == {'scale': [2048, 512], 'keep_ratio': True}
    assert json.dumps(config_preprocessing({'model': {}})) == json.dumps({**IMAGENET, 'resize': None})


def test_the_command(models, image, tmp_path, capsys):
    main(['predict', str(models['labels']), str(image), '--out', str(tmp_path / 'out'), '--threads', '1'])
    text = capsys.readouterr().out
    assert '66.67%  dark' in text and '33.33%  bright' in text
    assert np.asarray(Image.open(tmp_path / 'out/picture.png')).sum() == 200
    assert np.asarray(Image.open(tmp_path / 'out/picture_painted.png'))[0, -1].tolist() == PALETTE[1]
    main(['predict', str(models['classes']), str(image)])
    assert capsys.readouterr().out.splitlines()[1].endswith('dark')
    main(['predict', str(models['features']), str(image), '--out', str(tmp_path / 'out')])
    assert 'output: 1 x 2 x 20 x 30' in capsys.readouterr().out
    assert np.load(tmp_path / 'out/picture.npz')['output'].shape == (1, 2, 20, 30)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['gone.onnx', '{image}'], 'gone.onnx does not exist; give a file that mmvim export has written'),
        (['{image}', '{image}'], 'cannot be run'),
        (['{model}', 'gone.jpg'], 'picture gone.jpg cannot be read'),
        (['{model}', '{model}'], 'cannot be read'),
        (['{model}', '{image}', '--out', '{image}'], 'is a file; name a folder'),
        (
            ['{model}', '{image}', '{image}', '--out', 'x'],
            'picture.png would both be named picture; predict them',
        ),
        (['{model}', 'a.png', 'b/a_painted.png', '--out', 'x'], 'a.png and b/a_painted.png would both be named a_pai'),
        (['{model}', '{image}', '--threads', '0'], '--threads 0 is not a positive number'),
    ],
)
def test_mistakes_are_one_line(arguments, words, models, image, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(['predict', *(word.format(image=image, model=models['labels']) for word in arguments)])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.err.count('\n') == 1 and words in captured.err
    assert not (tmp_path / 'x').exists()


def test_a_model_of_somebody_else(tmp_path, image):
    export_onnx(Bright('labels'), tmp_path / 'a.onnx', sizes=((16, 24),))
    with pytest.raises(ValueError, match=r'no word of mmvim in its metadata'):
        Predictor(tmp_path / 'a.onnx')


def test_a_fixed_size_is_told(tmp_path, image):
    metadata = as_metadata('1', 'labels', {**PLAIN, 'resize': {'scale': [8, 8], 'keep_ratio': False}})
    export_onnx(Bright('labels'), tmp_path / 'a.onnx', sizes=((16, 24),), metadata=metadata, dynamic=False)
    with pytest.raises(ValueError, match=r'takes inputs of \[1, 3, 16, 24\] alone'):
        Predictor(tmp_path / 'a.onnx')(read_picture(image))
    metadata = as_metadata('1', 'labels', PLAIN)
    export_onnx(Bright('labels'), tmp_path / 'a.onnx', sizes=((16, 24),), metadata=metadata, dynamic=False)
    assert Predictor(tmp_path / 'a.onnx')(read_picture(image)).labels.shape == (20, 30)


def test_missing_packages(models, image, monkeypatch):
    from mmvim.cli.commands import predict
    from mmvim.deploy import errors

    monkeypatch.setattr(errors, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='numpy is not installed; pip install numpy onnxruntime pillow'):
        predict.main([str(models['labels']), str(image)])


BLOCKED = """
import sys
for name in ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'onnx', 'onnxscript', 'cv2'):
    sys.modules[name] = None  # importing it fails
from mmvim.cli.main import main
main(sys.argv[1:])
"""


def test_without_pytorch(models, image):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    command = [sys.executable, '-c', BLOCKED, 'predict', str(models['labels']), str(image)]
    done = subprocess.run(command, env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True)
    assert done.returncode == 0 and '33.33%  bright' in done.stdout, done.stderr


@pytest.mark.full
def test_in_an_environment_without_pytorch(models, image, tmp_path):
    """An environment with what the page on deployment names, and nothing more."""
    venv.create(tmp_path / 'venv', with_pip=True)
    python = tmp_path / 'venv/bin/python'
    install = [python, '-m', 'pip', 'install', '-q', 'numpy', 'onnxruntime', 'pillow']
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(install, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f'pip cannot reach the packages: {done.stderr[-200:]}')
    assert subprocess.run([python, '-c', 'import torch'], env=env, capture_output=True).returncode != 0
    tool = Path(ROOT) / 'tools/deployment/predict_onnx.py'
    command = [python, tool, models['labels'], image, '--out', tmp_path / 'out']
    done = subprocess.run(command, env={**env, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and '33.33%  bright' in done.stdout, done.stderr
    assert np.asarray(Image.open(tmp_path / 'out/picture.png')).sum() == 200
