"""A check that the data exist, before there is a runner, which would make directories first and look for data later.

Paths are joined as in MMEngine's ``BaseDataset``: ``ann_file`` and each ``data_prefix`` under ``data_root``.
"""

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvim.cli.errors import ENVIRONMENT, UserError, warn
from mmvim.cli.options import find_types

# Prefixes that hold images: an empty folder there means an empty data set, on which a sampler may block for ever.
_IMAGE_PREFIXES = ('img', 'img_path')
# Folders that only what loads annotations reads, and what does.
_ANNOTATIONS = re.compile('(^|_)(seg|ann|anno|mask|depth|label)')
_LOADS = re.compile(r'Load(?!Empty|Image|Multi|Proposals)\w+')
# Reading takes a second per 50 MB. A larger file is certainly not empty, so it is not read a second time.
LARGEST = 50_000_000


@dataclass
class _Problem:
    path: str
    reason: str
    option: str


def check_data(cfg: Config, stages: tuple[str, ...]) -> None:
    """Check that the files of every data set that a run will read exist.

    Args:
        cfg: The config, options merged.
        stages: Any of 'train', 'val' and 'test'.

    Raises:
        UserError: If the config lacks the data loader of a stage, if a folder or annotation file is missing, if a
            folder of images holds none, if the first image has no mask, or if an annotation file in COCO's format
            leaves nothing to read. The message names the options that point elsewhere.

    Examples:
        >>> from mmengine.config import Config
        >>> from mmvim.cli import UserError, check_data
        >>> dataset = dict(type='ADE20KDataset', data_root='no/ade', data_prefix=dict(img_path='images'))
        >>> try:
        ...     check_data(Config(dict(test_dataloader=dict(dataset=dataset))), ('test',))
        ... except UserError as error:
        ...     print(str(error).split('; ')[0])
        no/ade/images does not exist
    """
    problems = []
    for stage in stages:
        loader = f'{stage}_dataloader'
        if not isinstance(cfg.get(loader), dict):
            raise UserError(f'the config has no {loader}', f'give a config that can {stage}, or add one')
        for node, path in find_datasets(cfg[loader].get('dataset'), (loader, 'dataset')):
            problems += _dataset_problems(node, path, cfg.get('default_scope'))
        problems += _evaluator_problems(cfg.get(f'{stage}_evaluator'), f'{stage}_evaluator')
    if problems:
        first = problems[0]
        options = ' '.join(dict.fromkeys(f'{p.option}=PATH' for p in problems))
        raise UserError(
            f'{first.path} {first.reason}', f'download or make the data, or pass --cfg-options {options}', ENVIRONMENT
        )


def find_datasets(node: object, path: tuple[str, ...]) -> Iterator[tuple[dict, tuple[str, ...]]]:
    """Yield the data sets that read files: the innermost ones of RepeatDataset, ConcatDataset and other wrappers.

    Args:
        node: ``dataset`` of a data loader, or a list of data sets.
        path: Its place in the config.

    Yields:
        The settings of a data set, and their place in the config.

    Examples:
        >>> from mmvim.cli.data import find_datasets
        >>> inner = dict(type='ADE20KDataset')
        >>> list(find_datasets(dict(type='RepeatDataset', dataset=inner), ('train_dataloader', 'dataset')))
        [({'type': 'ADE20KDataset'}, ('train_dataloader', 'dataset', 'dataset'))]
    """
    if isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from find_datasets(item, (*path, str(index)))
    elif isinstance(node, dict):
        inner = [key for key in ('dataset', 'datasets') if isinstance(node.get(key), (dict, list, tuple))]
        for key in inner:
            yield from find_datasets(node[key], (*path, key))
        if not inner:
            yield node, path


def is_coco(target: object) -> bool:
    """Check whether a data set class is MMDetection's ``CocoDataset`` or derived from it.

    Args:
        target: The class; anything else is not one.

    Examples:
        >>> from mmvim.cli.data import is_coco
        >>> class CocoDataset: ...
        >>> is_coco(CocoDataset), is_coco(dict)
        (True, False)
    """
    return any(cls.__name__ == 'CocoDataset' for cls in getattr(target, '__mro__', ()))


def annotation_problem(file: str, setting: Callable[[str], Any], metainfo: dict) -> str | None:
    """Return what is wrong with a COCO annotation file.

    Args:
        file: The file, which exists.
        setting: Returns a setting of the data set by its name, or its default.
        metainfo: The data set class's own ``METAINFO``.

    Returns:
        A predicate to put after the file's name in a sentence; None if there is something to read, with a warning if
        some boxes lie outside of their picture. A file of more than 50 MB is not opened.

    Examples:
        >>> import tempfile
        >>> from mmvim.cli.data import annotation_problem
        >>> with tempfile.NamedTemporaryFile('w') as file:
        ...     print('{"images": []}', file=file, flush=True)
        ...     annotation_problem(file.name, {}.get, {})
        'lists no image'
    """
    if os.path.getsize(file) > LARGEST:
        return None
    try:
        with open(file, encoding='utf-8') as stream:
            content = json.load(stream)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return 'is not JSON'
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        return "has no list 'images': it is not in COCO's format"
    if not content['images']:
        return 'lists no image'
    classes = (setting('metainfo') or metainfo).get('classes', ())
    classes = {classes} if isinstance(classes, str) else set(classes)
    wanted = {item['id']: item['name'] for item in content.get('categories') or () if item.get('name') in classes}
    missing = sorted(classes - set(wanted.values()))
    if missing:  # labels are numbered by what the file lists: a missing class would shift the others
        return (
            f'lists {len(classes) - len(missing)} of the {len(classes)} classes of the data set among its '
            f'categories, and not {missing[0]!r}: name its own in metainfo.classes of every data set'
        )
    annotations = content.get('annotations') or ()
    # A panoptic file has one annotation a picture, and the objects in it.
    items = [item for annotation in annotations for item in annotation.get('segments_info', (annotation,))]
    panoptic = any('segments_info' in annotation for annotation in annotations)
    objects = [item for item in items if item.get('category_id') in wanted]
    bare = next((item for item in objects if not item.get('segmentation')), None)
    if not panoptic and bare is not None and any(step.get('with_mask') for step in setting('pipeline') or ()):
        return f'has no segmentation in annotation {bare.get("id")}, and the pipeline loads masks'
    # Images without objects are fine in a test, and where they are not filtered out.
    filtered = not setting('test_mode') and (setting('filter_cfg') or {}).get('filter_empty_gt')
    if filtered and not objects:
        return (
            f'has no object in its {len(content["images"])} images, and filter_cfg.filter_empty_gt=True leaves out '
            'images without objects'
        )
    return None if panoptic else _boxes_problem(file, content['images'], objects)


def _boxes_problem(file: str, images: list[dict], objects: list[dict]) -> str | None:
    """Return what is wrong if MMDetection would leave out every box; warn if boxes have no area in their picture."""
    sizes = {item.get('id'): (item.get('width'), item.get('height')) for item in images}
    left_out, strange = 0, []
    for item in objects:
        box, size = item.get('bbox') or (), sizes.get(item.get('image_id'), (None, None))
        if len(box) != 4 or None in size:
            return None  # whoever reads it says so
        x, y, width, height = box
        inside = min(x + width, size[0]) > max(x, 0) and min(y + height, size[1]) > max(y, 0)
        left_out += not inside or width < 1 or height < 1
        if not inside:
            strange.append(item)
    if objects and left_out == len(objects):
        return 'has no box of a pixel or more inside of a picture: bbox is [left, top, width, height] in pixels'
    if strange:
        warn(
            f'{len(strange)} of the {len(objects)} boxes of {file} have no area or lie outside of their picture and '
            f'are left out (annotation {strange[0].get("id")} has {strange[0]["bbox"]}: left, top, width, height): '
            'correct or remove them'
        )
    return None


def default_of(target: object, name: str) -> Any:
    """Return the default of an argument, from the most derived ``__init__`` that has one; None if none has.

    Args:
        target: A class; anything else has no defaults.
        name: The argument.

    Examples:
        >>> from mmvim.cli.data import default_of
        >>> class Layer:
        ...     def __init__(self, width=8): ...
        >>> default_of(Layer, 'width')
        8
    """
    for function in [c.__dict__['__init__'] for c in getattr(target, '__mro__', ()) if '__init__' in c.__dict__]:
        parameter = inspect.signature(function).parameters.get(name)
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
    return None


def is_remote_file(path: str, backend_args: dict | None) -> bool:
    """Check whether a file of a data set is fetched from elsewhere.

    Args:
        path: The file.
        backend_args: Those of the data set.

    Examples:
        >>> from mmvim.cli.data import is_remote_file
        >>> is_remote_file('images', None), is_remote_file('images', {'backend': 'petrel'})
        (False, True)
    """
    return '://' in path or (backend_args or {}).get('backend', 'local') not in ('local', 'disk')


def _is_absolute(path: str) -> bool:
    return os.path.isabs(path) or '://' in path


def _dataset_problems(node: dict, path: tuple[str, ...], scope: str) -> Iterator[_Problem]:
    target = next(iter(find_types(node, scope)), None)

    def setting(name: str) -> Any:
        return node[name] if name in node else default_of(target, name)

    root, backend_args = setting('data_root') or '', setting('backend_args')
    dotted = '.'.join(path)
    # Where everything lies under one root, that root is the option to give.
    option = f'{dotted}.data_root' if root else f'{dotted}.data_prefix'

    def join(name: str) -> str:
        return name if _is_absolute(name) or not root else os.path.join(root, name)

    ann_file = setting('ann_file') or ''
    prefixes = setting('data_prefix') or {}
    annotated = reads_annotations(node.get('pipeline'))
    prefixes = {
        key: value
        for key, value in prefixes.items()
        if isinstance(value, str) and (annotated or not _ANNOTATIONS.search(key))
    }
    named = [join(ann_file)] if ann_file else []
    folders = {key: join(value) for key, value in prefixes.items() if value or root}
    if any(is_remote_file(p, backend_args) for p in (root, *named, *folders.values())):
        return
    if root and not os.path.isdir(root) and not all(_is_absolute(p) for p in (ann_file, *prefixes.values()) if p):
        # Name the root itself only where nothing more precise is expected below it.
        missing = next(iter([*folders.values(), *named]), root)
        yield _Problem(missing, 'does not exist', option)
        return
    for file in named:
        if not os.path.exists(file):
            yield _Problem(file, 'does not exist', option if not _is_absolute(ann_file) else f'{dotted}.ann_file')
        elif is_coco(target):
            reason = annotation_problem(file, setting, getattr(target, 'METAINFO', {}))
            if reason is not None:
                yield _Problem(file, reason, f'{dotted}.ann_file')
    for key, folder in folders.items():
        where = option if not _is_absolute(prefixes[key]) else f'{dotted}.data_prefix.{key}'
        if not os.path.isdir(folder):
            yield _Problem(folder, 'does not exist' if not os.path.exists(folder) else 'is not a folder', where)
            continue
        if key in _IMAGE_PREFIXES:
            yield from _image_problems(folder, folders.get('seg_map_path'), bool(ann_file), node, setting, where)


def _image_problems(
    folder: str, masks: str | None, listed: bool, node: dict, setting: Callable[[str], Any], option: str
) -> Iterator[_Problem]:
    suffix = setting('img_suffix')
    suffix = suffix if isinstance(suffix, (str, tuple)) and not listed else ''
    image = _first_file(folder, suffix)
    if image is None:
        yield _Problem(folder, f'holds no {suffix or "file"}', option)
        return
    mask_suffix = setting('seg_map_suffix')
    if (
        masks
        and os.path.isdir(masks)
        and reads_annotations(node.get('pipeline'))
        and isinstance(suffix, str)
        and suffix
        and mask_suffix
    ):
        name = os.path.relpath(image, folder)
        mask = os.path.join(masks, name[: len(name) - len(suffix)] + mask_suffix)
        if not os.path.isfile(mask):
            yield _Problem(mask, f'does not exist, though {image} does', option)


def reads_annotations(pipeline: object) -> bool:
    """Check whether a pipeline loads masks or other annotations.

    Args:
        pipeline: The transforms of a data set.

    Examples:
        >>> from mmvim.cli.data import reads_annotations
        >>> reads_annotations([dict(type='LoadImageFromFile')]), reads_annotations([dict(type='LoadAnnotations')])
        (False, True)
    """
    kinds = [step.get('type') for step in _steps(pipeline)]
    names = [kind if isinstance(kind, str) else getattr(kind, '__name__', '') for kind in kinds]
    return any(_LOADS.search(name) for name in names)


def _steps(pipeline: object) -> Iterator[dict]:
    """Yield every transform of a pipeline, including those inside others."""
    if isinstance(pipeline, dict):
        yield pipeline
        for value in pipeline.values():
            yield from _steps(value)
    elif isinstance(pipeline, (list, tuple)):
        for item in pipeline:
            yield from _steps(item)


def _first_file(folder: str, suffix: str | tuple[str, ...]) -> str | None:
    for current, _, names in os.walk(folder, followlinks=True):
        name = next((n for n in names if n.endswith(suffix)), None)
        if name is not None:
            return os.path.join(current, name)
    return None


def _evaluator_problems(evaluator: object, option: str) -> Iterator[_Problem]:
    if isinstance(evaluator, (list, tuple)):
        for index, metric in enumerate(evaluator):
            yield from _evaluator_problems(metric, f'{option}.{index}')
    elif isinstance(evaluator, dict):
        file = evaluator.get('ann_file')
        if not isinstance(file, str) or not file or is_remote_file(file, evaluator.get('backend_args')):
            return
        if not Path(file).is_file():
            yield _Problem(file, 'does not exist', f'{option}.ann_file')
