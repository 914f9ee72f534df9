"""The checkout that is tested: its folders, its configs and its tools."""

import copy
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import mmengine
import pytest
from mmengine.config import Config

import mmvim  # noqa: F401  (makes `mmseg::`, `mmdet::` and `mmvim::` bases resolve)

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / 'configs'


def config_files() -> list[str]:
    """Every config, relative to ``configs/``; ``_base_`` holds parts of configs, not configs."""
    return sorted(str(f.relative_to(CONFIGS)) for f in CONFIGS.rglob('*.py') if '_base_' not in f.parts)


def full_named(files: list[str]) -> list[str]:
    """Those in folders; the others are one-line entries to them."""
    return [f for f in files if os.sep in f]


def is_classifier(file: str) -> bool:
    """Configs of MMPreTrain's classifiers have ImageNet-1k in their name."""
    return file.endswith('_in1k.py')


def is_detector(file: str) -> bool:
    """Configs of detectors have COCO in their name or their folder's."""
    return '_coco' in file


def recipes() -> list[str]:
    """The published recipes of segmentors and detectors: those in the families' folders."""
    from families import FAMILY_CASES  # here, so that who reads no config needs no model

    return [f for f in full_named(config_files()) if f.split(os.sep)[0] in FAMILY_CASES and not is_classifier(f)]


def box_detectors() -> list[str]:
    """Those of detectors that predict boxes and masks."""
    return [f for f in recipes() if is_detector(f) and not any(kind in f for kind in ('panoptic', 'retinanet'))]


def one_of_each_kind(files: Sequence[str | Path]) -> list:
    """Return configs as parameters of which one of each kind is ordinary and the others are ``full``.

    Of one kind are those of a folder whose names differ in the size of the backbone alone: a word for the size, and the
    rest of the name alike. A tiny one is taken where there is one.
    """
    chosen: dict[tuple[str, int, str], str | Path] = {}
    for file in sorted(files, key=lambda file: ('tiny' not in str(file), str(file))):
        backbone, _, rest = Path(file).name.partition('_')
        chosen.setdefault((str(Path(file).parent), len(backbone.split('-')), rest), file)
    return [pytest.param(file, marks=() if file in chosen.values() else pytest.mark.full) for file in files]


def one_of_each_size(entries: Sequence[str]) -> list:
    """Return entry configs as parameters: of those whose names differ in the letter of the size, `t` is ordinary."""
    return [pytest.param(file, marks=() if '_t_' in file else pytest.mark.full) for file in entries]


_read_once = functools.cache(mmengine.load)


@functools.cache
def _load(file: str) -> Config:
    with mock.patch('mmengine.config.utils.load', _read_once):  # MMSegmentation's fifty metafiles, for each `mmseg::`
        return Config.fromfile(CONFIGS / file)


def need(library):
    """Skip a test of models of mmseg or mmdet where they cannot be imported; mmdet also without compiled operators."""
    pytest.importorskip(library, reason=f'{library} is not installed')
    if library == 'mmdet':
        pytest.importorskip('mmcv._ext', reason='mmcv has no compiled operators, which detectors need')


def load_config(file: str) -> Config:
    """Read a config by its path below ``configs/``; the caller owns the copy."""
    return copy.deepcopy(_load(file))


def load_module(path: Path) -> ModuleType:
    """Import a file that lies in no package, anew each time."""
    spec = importlib.util.spec_from_file_location(f'module_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_tool(name: str) -> ModuleType:
    """Import a tool by its path below ``tools/``."""
    return load_module(ROOT / 'tools' / name)
