"""What a config says about pictures and classes, as plain values: an exported file carries it along.

Keys of the metadata begin with ``mmvim.``; values are JSON, but for ``mmvim.task`` and ``mmvim.version``:

====================== =============================================================================================
``mmvim.version``      what has exported the file
``mmvim.task``         ``labels``, ``scores``, ``classes`` (of a classifier) or ``features``: what the outputs are
``mmvim.classes``      names of the classes, in the order of the labels; missing where nobody has named them
``mmvim.palette``      red, green and blue of each class, 0..255; likewise
``mmvim.preprocessing`` ``resize`` (see below), ``mean`` and ``std`` in 0..255 and ``channels``, RGB or BGR, their order
====================== =============================================================================================

``resize`` is null, or has ``scale`` [W, H] and ``keep_ratio`` (bilinear, as OpenCV), or ``short``, ``crop``, ``squash``
and ``interpolation`` (as Pillow): the short side, or both, and then the middle of the picture.
``bands`` is there for pictures of other numbers than bytes, whose channels keep the order of their file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'channels': 'RGB'}


def as_metadata(
    version: str,
    task: str,
    preprocessing: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> dict[str, str]:
    """Return what a file says of itself.

    Args:
        version: mmvim's.
        task: See above.
        preprocessing: See above.
        classes: Names. Defaults to None, unknown.
        palette: Colours. Defaults to None, unknown.

    Examples:
        >>> from mmvim.deploy.recipe import IMAGENET, as_metadata
        >>> sorted(as_metadata('1.0', 'labels', IMAGENET, ['wall', 'sky']))
        ['mmvim.classes', 'mmvim.preprocessing', 'mmvim.task', 'mmvim.version']
    """
    found = {'version': version, 'task': task, 'preprocessing': json.dumps(dict(preprocessing))}
    if classes is not None:
        found['classes'] = json.dumps(list(classes), ensure_ascii=False)
    if palette is not None:
        found['palette'] = json.dumps([list(map(int, colour)) for colour in palette])
    return {f'mmvim.{key}': value for key, value in found.items()}


def config_preprocessing(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a config prepares pictures for a test.

    Args:
        cfg: A config of MMSegmentation, MMDetection or MMPreTrain, or of a backbone alone.

    Returns:
        ``mean``, ``std``, ``channels`` and ``resize``, see above. ImageNet's figures where the config has none.

    Examples:
        >>> from mmvim.deploy.recipe import config_preprocessing
        >>> config_preprocessing({'model': {'data_preprocessor': {'mean': [1, 2, 3], 'std': [4, 4, 4]}}})['channels']
        'BGR'
    """
    preprocessor = cfg['model'].get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if preprocessor.get('mean') is None:
        return {**IMAGENET, 'resize': _resize(cfg)}
    # Pictures are read as BGR, but for those of many bands, which keep the order of their file.
    to_rgb = preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb') or _loads_bands(cfg)
    found = {
        'mean': [float(x) for x in preprocessor['mean']],
        'std': [float(x) for x in preprocessor['std']],
        'channels': 'RGB' if to_rgb else 'BGR',
        'resize': _resize(cfg),
    }
    return {**found, 'bands': True} if _loads_bands(cfg) else found


def _steps(cfg: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the transforms of the test pipeline."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return (loader.get('dataset') or {}).get('pipeline') or cfg.get('test_pipeline') or ()


def _loads_bands(cfg: Mapping[str, Any]) -> bool:
    return any(str(step.get('type')).split('.')[-1] == 'LoadImageBands' for step in _steps(cfg))


def _resize(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the resizing of the test pipeline, None if it has none that is known."""
    found: dict[str, Any] | None = None
    for step in _steps(cfg):
        kind = str(step.get('type')).split('.')[-1]
        if kind == 'Resize' and step.get('scale') is not None:
            scale = step['scale']
            scale = [scale, scale] if isinstance(scale, int) else list(scale)
            found = {'scale': [int(x) for x in scale], 'keep_ratio': bool(step.get('keep_ratio', False))}
        elif kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            found = {'short': int(step['scale']), 'crop': None, 'squash': False}
            found['interpolation'] = step.get('interpolation', 'bilinear')
        elif kind == 'CenterCrop' and found is not None and 'short' in found:
            size = step['crop_size']
            found['crop'] = int(size if isinstance(size, int) else size[0])
    return found
