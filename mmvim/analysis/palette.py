"""Names and colours of classes, where a checkpoint or a data set lacks them."""

from typing import Any

import numpy as np
from mmengine.config import Config

_LEVELS = np.arange(8, 256, 16)  # of red, green and blue: 4096 colours to choose from
_AVOIDED = ((0, 0, 0), (128, 128, 128), (255, 255, 255))  # what pictures are full of, and legends are written in


def distinct_palette(number: int) -> list[tuple[int, int, int]]:
    """Return colours each of which is as far as can be from all before it, the same ones on every call.

    Args:
        number: How many, up to 4096.

    Returns:
        RGB, 0 to 255; a longer palette begins with a shorter one.

    Raises:
        ValueError: If ``number`` is out of range.

    Examples:
        >>> from mmvim.analysis.palette import distinct_palette
        >>> distinct_palette(2)
        [(248, 248, 8), (248, 8, 248)]
    """
    if not 0 <= number <= len(_LEVELS) ** 3:
        raise ValueError(f'number={number} of colours must be from 0 to {len(_LEVELS) ** 3}')
    candidates = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing='ij'), -1).reshape(-1, 3)[::-1]
    nearest = np.min([((candidates - colour) ** 2).sum(1) for colour in _AVOIDED], axis=0)
    found = []
    for _ in range(number):
        chosen = candidates[nearest.argmax()]
        found.append((int(chosen[0]), int(chosen[1]), int(chosen[2])))
        nearest = np.minimum(nearest, ((candidates - chosen) ** 2).sum(1))
    return found


def complete_palette(palette: Any, number: int) -> list[tuple[int, int, int]]:
    """Return a colour for each class: those that are there, and distinct ones for the rest.

    Args:
        palette: RGB, 0 to 255, of each class; or None, or a word such as mmdet's ``'random'``, which stand for none.
        number: How many classes there are; colours beyond are left out.

    Returns:
        RGB, 0 to 255, of each class.

    Examples:
        >>> from mmvim.analysis.palette import complete_palette
        >>> complete_palette([(0, 0, 0)], 2), complete_palette('random', 1)
        ([(0, 0, 0), (248, 8, 248)], [(248, 248, 8)])
    """
    given = [] if palette is None or isinstance(palette, str) else list(palette)[:number]
    found = [(int(red), int(green), int(blue)) for red, green, blue in given]
    return found + distinct_palette(number)[len(found) :]


def number_of_classes(model: Any) -> int | None:
    """Return how many classes a segmentor or a detector tells apart, None if its head does not say.

    Args:
        model: The model, of MMSegmentation or MMDetection.

    Examples:
        >>> from types import SimpleNamespace
        >>> from mmvim.analysis.palette import number_of_classes
        >>> number_of_classes(SimpleNamespace(decode_head=SimpleNamespace(num_classes=19)))
        19
    """
    model = getattr(model, 'module', model)  # of a segmentor by tiles
    # of a panoptic model the fusion knows things and stuff; a head of its parts knows one of them
    fusion = getattr(model, 'panoptic_fusion_head', None)
    if fusion is not None and hasattr(fusion, 'num_classes'):
        return int(fusion.num_classes)
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    for candidate in (head, getattr(model, 'decode_head', None), getattr(model, 'bbox_head', None)):
        parts = candidate if isinstance(candidate, (list, tuple)) or hasattr(candidate, '__getitem__') else [candidate]
        number = getattr(parts[-1], 'num_classes', None)  # of a cascade the last one counts
        if isinstance(number, int):
            return number
    return None


def classes_and_palette(
    cfg: Config, meta: dict | None = None, number: int | None = None
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Return name and colour of each class of a model.

    The checkpoint's own are taken if there are as many as the model has classes, else those that the test data set of
    the config is given, else those of its type, else numbers.

    Args:
        cfg: The model's config.
        meta: What the checkpoint notes of its data set: ``classes`` and perhaps ``palette``. Defaults to None.
        number: How many classes the model has. Defaults to None, unknown: the first names that are found count.

    Returns:
        The names, and RGB, 0 to 255, of each; missing colours are made up.

    Raises:
        ValueError: If the number of classes is unknown and nothing names any.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.analysis.palette import classes_and_palette
        >>> dataset = dict(metainfo=dict(classes=('sky', 'sea')))
        >>> classes_and_palette(Config(dict(test_dataloader=dict(dataset=dataset))), number=2)
        (['sky', 'sea'], [(248, 248, 8), (248, 8, 248)])
        >>> classes_and_palette(Config(), number=1)
        (['class 0'], [(248, 248, 8)])
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    sources = []
    for source in (meta, dataset.get('metainfo'), _of_type(cfg, dataset.get('type'))):
        known = {str(key).lower(): value for key, value in (source or {}).items()}
        names = known.get('classes')
        names = [names] if isinstance(names, str) else [str(name) for name in names or ()]
        palette = known.get('palette')
        sources.append((names, None if isinstance(palette, str) else palette))
    classes = next((names for names, _ in sources if names and number in (None, len(names))), None)
    if classes is None and number is None:
        raise ValueError('neither checkpoint nor config names the classes; set test_dataloader.dataset.metainfo')
    if classes is None:
        return [f'class {index}' for index in range(number)], distinct_palette(number)
    palette = next((colours for names, colours in sources if names == classes and colours), None)
    return classes, complete_palette(palette, len(classes))


def _of_type(cfg: Config, kind: Any) -> dict:
    """Return what a registered data set knows of its classes."""
    from mmengine.registry import DATASETS

    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            kind = registry.get(kind)
    return getattr(kind, 'METAINFO', None) or {}
