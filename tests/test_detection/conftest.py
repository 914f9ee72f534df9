"""Data, configs and tools for the tests of detectors; all of them need mmdet and the compiled operators of mmcv."""

import functools
from pathlib import Path
from unittest import mock

import mmengine
import pytest
from mmengine.config import Config

import mmvim  # noqa: F401  makes `mmdet::` bases and mmvim's types known
from scenes import DemoSceneParams, write_demo_scenes

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')

import small_detectors as small

_read_once = functools.cache(mmengine.load)


@pytest.fixture(autouse=True)
def quick_runners(monkeypatch):
    """Write configs unformatted: formatting takes longer than the step."""
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg.to_dict())))


@functools.cache
def _load(file: str) -> Config:
    with mock.patch('mmengine.config.utils.load', _read_once):  # mmdet's metafiles, for each `mmdet::`
        return Config.fromfile(small.ROOT / 'configs' / file)


@pytest.fixture(scope='session')
def load():
    """Read a config by its path below ``configs/``; the caller owns the copy."""
    return lambda file: Config(_load(file).to_dict())


@pytest.fixture(scope='session')
def demo_coco(tmp_path_factory) -> Path:
    """Generated scenes in COCO's layout: 4 to train on, 2 to validate."""
    root = tmp_path_factory.mktemp('scenes') / 'demo'
    write_demo_scenes(root, DemoSceneParams(train=4, val=2, size=(96, 128)))
    return root / 'coco'


@pytest.fixture(scope='session')
def real_coco() -> Path:
    """Real COCO pictures, or skip."""
    root = small.coco_mini()
    if root is None:
        pytest.skip("no COCO pictures: set MMVIM_COCO to a folder of COCO's layout")
    return root


@pytest.fixture(scope='session')
def train():
    return small.load_tool('train.py')


@pytest.fixture(scope='session')
def evaluate():
    return small.load_tool('test.py')


@pytest.fixture
def shrink(demo_coco, tmp_path):
    """Make a config small, on the generated scenes."""
    return lambda cfg, **options: small.shrink(cfg, demo_coco, tmp_path / 'work', **options)


@pytest.fixture(scope='session')
def any_coco(demo_coco) -> Path:
    """Real COCO pictures where there are some, generated scenes otherwise."""
    return small.coco_mini() or demo_coco
