"""Which classes the demo scenes have, and what ADE20K and COCO call them.

Pixel values are ADE20K's (0 is "other", 1 to 150 the classes in the order of its ``objectInfo150.txt``), category ids
are COCO's. A stock ``ADE20KDataset`` of MMSegmentation and a stock ``CocoDataset`` of MMDetection therefore read the
scenes unchanged.
"""

from typing import NamedTuple

OTHER = 'other'
"""Name of things that have no class: value 0 in the annotations, ignored in training and in scores."""


class SceneClass(NamedTuple):
    """A semantic class of the scenes."""

    name: str
    ade_id: int
    colour: tuple[int, int, int]
    """RGB, 0 to 255, for pictures. ADE20K's own colours are no use here: its tree and grass are both bright green."""


SCENE_CLASSES = (
    SceneClass('building', 2, (178, 110, 96)),
    SceneClass('sky', 3, (150, 200, 240)),
    SceneClass('tree', 5, (30, 112, 60)),
    SceneClass('road', 7, (120, 120, 132)),
    SceneClass('grass', 10, (150, 205, 92)),
    SceneClass('person', 13, (220, 30, 70)),
    SceneClass('mountain', 17, (128, 98, 152)),
    SceneClass('car', 21, (30, 40, 170)),
    SceneClass('sea', 27, (24, 120, 190)),
    SceneClass('signboard', 44, (250, 215, 40)),
    SceneClass('boat', 77, (255, 255, 255)),
    SceneClass('streetlight', 88, (20, 20, 24)),
    SceneClass('ball', 120, (250, 130, 20)),
    SceneClass('animal', 127, (110, 64, 30)),
)
CLASSES = tuple(item.name for item in SCENE_CLASSES)
PALETTE = tuple(item.colour for item in SCENE_CLASSES)
ADE_IDS = {OTHER: 0, **{item.name: item.ade_id for item in SCENE_CLASSES}}

# fmt: off
COCO_CATEGORIES = {
    'person': (1, 'person'),
    'vehicle': (
        2, 'bicycle', 3, 'car', 4, 'motorcycle', 5, 'airplane', 6, 'bus', 7, 'train', 8, 'truck', 9, 'boat'),
    'outdoor': (10, 'traffic light', 11, 'fire hydrant', 13, 'stop sign', 14, 'parking meter', 15, 'bench'),
    'animal': (
        16, 'bird', 17, 'cat', 18, 'dog', 19, 'horse', 20, 'sheep', 21, 'cow', 22, 'elephant', 23, 'bear',
        24, 'zebra', 25, 'giraffe'),
    'accessory': (27, 'backpack', 28, 'umbrella', 31, 'handbag', 32, 'tie', 33, 'suitcase'),
    'sports': (
        34, 'frisbee', 35, 'skis', 36, 'snowboard', 37, 'sports ball', 38, 'kite', 39, 'baseball bat',
        40, 'baseball glove', 41, 'skateboard', 42, 'surfboard', 43, 'tennis racket'),
    'kitchen': (44, 'bottle', 46, 'wine glass', 47, 'cup', 48, 'fork', 49, 'knife', 50, 'spoon', 51, 'bowl'),
    'food': (
        52, 'banana', 53, 'apple', 54, 'sandwich', 55, 'orange', 56, 'broccoli', 57, 'carrot', 58, 'hot dog',
        59, 'pizza', 60, 'donut', 61, 'cake'),
    'furniture': (62, 'chair', 63, 'couch', 64, 'potted plant', 65, 'bed', 67, 'dining table', 70, 'toilet'),
    'electronic': (72, 'tv', 73, 'laptop', 74, 'mouse', 75, 'remote', 76, 'keyboard', 77, 'cell phone'),
    'appliance': (78, 'microwave', 79, 'oven', 80, 'toaster', 81, 'sink', 82, 'refrigerator'),
    'indoor': (
        84, 'book', 85, 'clock', 86, 'vase', 87, 'scissors', 88, 'teddy bear', 89, 'hair drier', 90, 'toothbrush'),
}
# fmt: on
"""Supercategory to alternating ids and names. All 80 are listed in the JSON, because ``CocoDataset`` numbers its labels
by the categories that the file holds; the scenes use those of ``THING_CATEGORIES``."""

THING_CATEGORIES = ('person', 'car', 'boat', 'stop sign', 'dog', 'horse', 'sheep', 'cow', 'sports ball')


def coco_categories() -> list[dict]:
    """The ``categories`` entry of a COCO JSON: 80 dicts of ``id``, ``name`` and ``supercategory``."""
    return [
        {'id': number, 'name': name, 'supercategory': group}
        for group, flat in COCO_CATEGORIES.items()
        for number, name in zip(flat[::2], flat[1::2], strict=True)
    ]


def coco_ids() -> dict[str, int]:
    """Category id of each COCO category name."""
    return {item['name']: item['id'] for item in coco_categories()}
