"""Scenes of five bands: the pictures are those of three, and the further bands tell more than they do."""

import json

import numpy as np
import pytest
from checkout import ROOT, load_module

from mmvim.cli import UserError
from scenes import ADE_IDS, DemoSceneParams, render_scene, write_demo_scenes
from scenes.bands import NOISE, TOP, render_bands
from scenes.writer import read_record

PARAMS = DemoSceneParams(train=4, val=2, size=(64, 96), seed=1)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('bands')
    write_demo_scenes(root / 'three', PARAMS)
    write_demo_scenes(root / 'five', PARAMS._replace(bands=5))
    return root / 'three', root / 'five'


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_the_pictures_do_not_change(folders):
    three, five = map(contents, folders)
    bands = {name for name in five if name.startswith('ADEChallengeData2016/bands/')}
    assert len(bands) == 6 and all(name.endswith('.npy') for name in bands)
    assert {name: five[name] for name in five if name not in bands | {'demo_scenes.json'}} == {
        name: three[name] for name in three if name != 'demo_scenes.json'
    }
    assert 'bands' not in read_record(folders[0]), 'a set made before is still recognised'
    assert read_record(folders[1])['bands'] == 5 and json.loads(five['demo_scenes.json'])['splits']


def test_equal_parameters_give_equal_bands(folders, tmp_path):
    write_demo_scenes(tmp_path / 'again', PARAMS._replace(bands=5))
    assert contents(tmp_path / 'again') == contents(folders[1])


def test_what_is_in_the_bands():
    scenes = [render_scene(0, 0, index, (96, 128)) for index in range(4)]
    seen = {}
    for index, scene in enumerate(scenes):
        bands = render_bands(scene, 0, 0, index)
        assert bands.shape == (96, 128, 5) and bands.dtype == np.uint16 and bands.max() <= TOP
        colours = scene.image.astype(int) * 16
        assert (np.abs(bands[..., :3].astype(int) - np.clip(colours, 0, TOP)) <= NOISE).all()
        for name, value in ADE_IDS.items():
            if (scene.semantic == value).any():
                seen.setdefault(name, []).append(bands[scene.semantic == value, 3:].mean(0))
    means = {name: np.mean(values, 0) for name, values in seen.items()}
    assert min(means['tree'][0], means['grass'][0]) > 3 * means['sea'][0], 'plants shine in near infrared'
    assert min(means['person'][1], means['animal'][1]) > means['grass'][1] > means['sky'][1]


def test_other_numbers_of_bands(tmp_path):
    tool = load_module(ROOT / 'demo' / 'make_scenes.py')
    with pytest.raises(UserError, match='bands must be 3 or 5, got 4'):
        tool.main(['--out', str(tmp_path / 'a'), '--bands', '4'])
    assert not (tmp_path / 'a').exists()
    tool.main(['--out', str(tmp_path / 'a'), '--bands', '5', '--train', '1', '--val', '1', '--size', '64', '96'])
    found = np.load(tmp_path / 'a/ADEChallengeData2016/bands/training/ADE_train_00000001.npy')
    assert found.shape == (64, 96, 5)
    with pytest.raises(UserError, match='--force'):  # no set of one kind takes the place of the other
        tool.main(['--out', str(tmp_path / 'a'), '--train', '1', '--val', '1', '--size', '64', '96'])
