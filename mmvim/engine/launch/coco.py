"""What a COCO annotation file must hold to be trained or tested on.

If filtering leaves no image, MMEngine's infinite sampler blocks for ever, so this is checked first.
"""

import json
import os
from collections.abc import Callable
from typing import Any

# Reading takes a second per 50 MB. A larger file is certainly not empty, so it is not read a second time.
_LARGEST = 50_000_000


def is_coco(target: object) -> bool:
    """Check whether a data set class is MMDetection's ``CocoDataset`` or derived from it.

    Args:
        target: The class; anything else is not one.

    Examples:
        >>> from mmvim.engine.launch.coco import is_coco
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
        A predicate to put after the file's name in a sentence; None if there is something to read. A file of more than
        50 MB is not opened.

    Examples:
        >>> import tempfile
        >>> from mmvim.engine.launch.coco import annotation_problem
        >>> with tempfile.NamedTemporaryFile('w') as file:
        ...     print('{"images": []}', file=file, flush=True)
        ...     annotation_problem(file.name, {}.get, {})
        'lists no image'
    """
    if os.path.getsize(file) > _LARGEST:
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
    objects = [item for item in content.get('annotations') or () if item.get('category_id') in wanted]
    bare = next((item for item in objects if not item.get('segmentation')), None)
    if bare is not None and any(step.get('with_mask') for step in setting('pipeline') or ()):
        return f'has no segmentation in annotation {bare.get("id")}, and the pipeline loads masks'
    # Images without objects are fine in a test, and where they are not filtered out.
    filtered = not setting('test_mode') and (setting('filter_cfg') or {}).get('filter_empty_gt')
    if filtered and not objects:
        return (
            f'has no object in its {len(content["images"])} images, and filter_cfg.filter_empty_gt=True leaves out '
            'images without objects'
        )
    return None
