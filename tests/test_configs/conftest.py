"""Configs under ``configs/``, and a way to make a config and its data small."""

import copy
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
from checkout import (
    CONFIGS,
    ROOT,
    box_detectors,
    config_files,
    full_named,
    is_classifier,
    is_detector,
    one_of_each_kind,
    one_of_each_size,
    recipes,
)
from families import narrow_backbone, plain
from family_cases.base import scaled
from mmengine.config import Config
from mmseg.datasets import ADE20KDataset

CROP = 64
NEEDS_MMDET = pytest.mark.skipif(find_spec('mmdet') is None, reason='mmdet is not installed')


def _left_out_without_its_library(value):
    """A config file, or one with marks, marked if it is a detector's."""
    file, marks = (value, ()) if isinstance(value, str) else (value.values[0], value.marks)
    return pytest.param(file, marks=(*marks, NEEDS_MMDET)) if is_detector(file) else value


def pytest_generate_tests(metafunc):
    files = config_files()
    full = [f for f in full_named(files) if not is_classifier(f)]
    entries = sorted(set(files) - set(full_named(files)))
    choices = {
        'config_file': files,
        'full_config': full,
        'segmentor_config': one_of_each_kind([f for f in full if not is_detector(f)]),
        'classifier_config': [f for f in files if is_classifier(f)],  # of MMPreTrain, with tests of their own
        'entry': entries,
        'entry_to_start': one_of_each_size(entries),
        'recipe': recipes(),
        'recipe_to_start': one_of_each_kind(recipes()),
        'segmentor_recipe': [f for f in recipes() if not is_detector(f)],
        'detector_recipe': [f for f in recipes() if is_detector(f)],
        'box_detector_recipe': box_detectors(),
    }
    for name, values in choices.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, map(_left_out_without_its_library, values))


@pytest.fixture(autouse=True)
def _quick(quick_runners):
    """All of these run small models."""


def _labels(dataset: dict, num_classes: int) -> list[int]:
    """Values that an annotation of the data set may hold: its classes', and 0 where that means unlabelled."""
    if dataset['type'] == 'ADE20KDataset':
        names = ADE20KDataset.METAINFO['classes']
        return [0, *(names.index(name) + 1 for name in dataset.get('metainfo', ADE20KDataset.METAINFO)['classes'])]
    return list(range(num_classes + bool(dataset.get('reduce_zero_label'))))


def _write_pictures(dataset: dict, root: Path, labels: list[int], shapes: list[tuple[int, int]]) -> None:
    """Write noise in the places and formats in which a data set's config expects its pictures."""
    rng = np.random.default_rng(0)
    prefix = dataset['data_prefix']
    for i, (height, width) in enumerate(shapes):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = rng.choice(np.array(labels, dtype=np.uint8), (4, 4))
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
        for folder, suffix, array in (
            (prefix['img_path'], dataset.get('img_suffix', '.jpg'), image),
            (prefix['seg_map_path'], dataset.get('seg_map_suffix', '.png'), label),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if suffix == '.npy':  # five bands
                np.save(root / folder / f'{i}{suffix}', np.concatenate([array, array[..., :2]], axis=2))
            else:
                assert cv2.imwrite(str(root / folder / f'{i}{suffix}'), array)
    dataset['data_root'] = str(root)


def _narrow(model: dict, ratio: float) -> None:
    """Make a segmentor with a named, hence large, backbone of mmvim narrow; depth, outputs and switches stay."""
    if not isinstance(plain(model['backbone']).get('arch'), str):
        return  # written for a CPU
    channels = narrow_backbone(model['backbone'], ratio)
    if model.get('neck'):
        model['neck']['embed_dim'] = channels[0]
    model['decode_head'].update(in_channels=channels, channels=16)
    model['auxiliary_head'].update(in_channels=channels[model['auxiliary_head']['in_index']], channels=16)


def shrink_config(cfg: Config, work_dir: Path) -> Config:
    """Turn a segmentation config into one that a CPU steps through in a second or two, on pictures written for it.

    Widths, sizes of pictures and windows shrink; everything else (types, depths, outputs, pipelines, optimizer,
    schedules, evaluator) stays as the config says.
    """
    cfg = copy.deepcopy(cfg)
    model = cfg.model
    size = model.data_preprocessor['size']
    resizes = any(t['type'] in ('RandomCrop', 'Resize') for t in cfg.train_dataloader.dataset.pipeline)
    ratio = CROP / min(size) if resizes else 1.0
    _narrow(model, ratio)
    model.data_preprocessor['size'] = scaled(size, ratio)
    if model.test_cfg.mode == 'slide':
        model.test_cfg.update(
            crop_size=scaled(model.test_cfg.crop_size, ratio), stride=scaled(model.test_cfg.stride, ratio)
        )

    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader, train = cfg[name], name == 'train_dataloader'
        loader.update(num_workers=0, persistent_workers=False, batch_size=2 if train else 1)
        shapes = [(80, 64), (64, 96), (70, 110)] if train else [(72, 100)]
        labels = _labels(loader.dataset, model.decode_head.num_classes)
        _write_pictures(loader.dataset, work_dir / 'data', labels, shapes)
        for transform in loader.dataset.pipeline:
            for key in {'crop_size', 'scale'} & set(transform):
                transform[key] = scaled(transform[key], ratio)
    cfg.train_cfg.update(max_iters=1, val_interval=10)
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # needs a GPU
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale', None)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = Path(work_dir).name
    return cfg


@pytest.fixture
def narrow():
    """Make a segmentor narrow, in place, by a ratio."""
    return _narrow


@pytest.fixture
def shrink(tmp_path):
    """Make a config small, with pictures and a work directory of its own."""
    return lambda cfg: shrink_config(cfg, tmp_path / 'work')


@pytest.fixture(scope='session')
def installed(tmp_path_factory):
    """A folder from which mmvim is imported as if it were installed, ``.mim`` and all."""
    site = tmp_path_factory.mktemp('site')
    package, mim = site / 'mmvim', site / 'mmvim' / '.mim'
    mim.mkdir(parents=True)
    for part in (ROOT / 'mmvim').iterdir():
        if part.name not in ('.mim', '__pycache__'):
            (package / part.name).symlink_to(part)
    (mim / 'configs').symlink_to(CONFIGS)
    (mim / 'model-index.yml').symlink_to(ROOT / 'model-index.yml')
    return site


@pytest.fixture(scope='session')
def read_as_installed(tmp_path_factory, installed):
    """Read configs in a new process in which mmvim looks installed, and return them as dicts."""
    script = (
        'import functools, pickle, sys; import mmengine.config.utils as utils, mmvim; '
        'from mmengine.config import Config; out, *files = sys.argv[1:]; '
        'utils.load = functools.cache(utils.load); '  # MMSegmentation's fifty metafiles, for each `mmseg::`
        f'assert mmvim.__file__.startswith({str(installed)!r}), mmvim.__file__; '
        f'pickle.dump([Config.fromfile(f).to_dict() for f in files], open(out, "wb"))'
    )

    def read(files: list[Path]) -> list[dict]:
        out = tmp_path_factory.mktemp('out') / 'configs.pkl'
        command = [sys.executable, '-c', script, str(out), *map(str, files)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=installed, env={**os.environ, 'PYTHONPATH': str(installed)}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return pickle.loads(out.read_bytes())

    return read


@pytest.fixture(scope='session')
def index() -> dict:
    """``model-index.yml`` with the metafiles it imports, by path."""
    paths = mmengine.load(ROOT / 'model-index.yml')['Import']
    return {path: mmengine.load(ROOT / path) for path in paths}
