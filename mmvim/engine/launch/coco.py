"""What a COCO annotation file must hold to be trained or tested on.

Where it leaves nothing, a sampler waits for ever for the first picture.
"""

import json
import os
from collections.abc import Callable
from typing import Any

# Reading a file costs a second for every 50 MB. A larger one is not empty, so it is not read twice.
_LARGEST = 50_000_000


def is_coco(target: object) -> bool:
    """Whether a data set class is MMDetection's ``CocoDataset`` or derived from it."""
    return any(cls.__name__ == 'CocoDataset' for cls in getattr(target, '__mro__', ()))


def annotation_problem(file: str, setting: Callable[[str], Any], metainfo: dict) -> str | None:
    """What is wrong with a COCO annotation file.

    Args:
        file (str): The file, which exists.
        setting (Callable): Returns a setting of the data set by its name, or its default.
        metainfo (dict): The data set class's own ``METAINFO``.

    Returns:
        str, optional: What follows the file's name in a sentence; None where there is something to read. A file of more
        than 50 MB is not opened.
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
    if missing:  # labels are numbered by what the file lists: one class less would shift the others
        return (
            f'lists {len(classes) - len(missing)} of the {len(classes)} classes of the data set among its '
            f'categories, and not {missing[0]!r}: name its own in metainfo.classes of every data set'
        )
    objects = [item for item in content.get('annotations') or () if item.get('category_id') in wanted]
    bare = next((item for item in objects if not item.get('segmentation')), None)
    if bare is not None and any(step.get('with_mask') for step in setting('pipeline') or ()):
        return f'has no segmentation in annotation {bare.get("id")}, and the pipeline loads masks'
    # Pictures without objects are welcome in a test, and where they are not filtered.
    filtered = not setting('test_mode') and (setting('filter_cfg') or {}).get('filter_empty_gt')
    if filtered and not objects:
        return (
            f'has no object in its {len(content["images"])} images, and filter_cfg.filter_empty_gt=True leaves out '
            'images without objects'
        )
    return None
