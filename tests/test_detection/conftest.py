"""Data, configs and tools for the tests of detectors; all of them need mmdet and the compiled operators of mmcv."""

from pathlib import Path

import pytest

import mmvim  # noqa: F401  makes `mmdet::` bases and mmvim's types known
from scenes import DemoSceneParams, write_demo_scenes

try:
    import mmcv._ext  # noqa: F401
    import mmdet  # noqa: F401
    import small_detectors as small
except ImportError:  # a skip here would end pytest where it is given this folder alone
    collect_ignore_glob = ['test_*.py']


@pytest.fixture(autouse=True)
def _quick(quick_runners):
    """All of these run small models."""


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


@pytest.fixture
def shrink(demo_coco, tmp_path):
    """Make a config small, on the generated scenes."""
    return lambda cfg, **options: small.shrink(cfg, demo_coco, tmp_path / 'work', **options)


@pytest.fixture(scope='session')
def any_coco(demo_coco) -> Path:
    """Real COCO pictures where there are some, generated scenes otherwise."""
    return small.coco_mini() or demo_coco
