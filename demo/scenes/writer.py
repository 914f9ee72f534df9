"""Write a set of scenes to disk, in ADE20K's and in COCO's layout.

::

    ADEChallengeData2016/images/{training,validation}/ADE_{train,val}_00000001.jpg
    ADEChallengeData2016/annotations/{training,validation}/ADE_{train,val}_00000001.png
    coco/{train2017,val2017}/000000000001.jpg
    coco/annotations/instances_{train,val}2017.json
    demo_scenes.json

and, for scenes of five bands, ``ADEChallengeData2016/bands/{training,validation}/ADE_{train,val}_00000001.npy``.

Both halves show the same scenes; a picture is stored once and linked where the file system allows it.
``demo_scenes.json`` is written last and names the parameters, so that a folder that holds it is complete.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from scenes.bands import BANDS, render_bands
from scenes.classes import ADE_IDS, coco_categories, coco_ids
from scenes.outlines import box, polygons, run_lengths
from scenes.scene import MIN_SIZE, Scene, render_scene
from scenes.themes import THEMES

VERSION = 1
"""Raised whenever the same parameters would give other scenes."""
RECORD = 'demo_scenes.json'
MAX_SIZE = 2048
MAX_SCENES = 100_000
JPEG_QUALITY = 93


class _Split(NamedTuple):
    number: int
    ade_folder: str
    ade_prefix: str
    coco_name: str
    first_id: int
    """Image and annotation ids of the two splits must not meet."""


SPLITS = (
    _Split(0, 'training', 'ADE_train', 'train2017', 1),
    _Split(1, 'validation', 'ADE_val', 'val2017', MAX_SCENES + 1),
)


class DemoSceneParams(NamedTuple):
    """What determines a data set.

    Args:
        train: Number of training scenes, 1 to 100000. Defaults to 400.
        val: Number of validation scenes, 1 to 100000. Defaults to 80.
        size: Height and width in pixels, each 64 to 2048. Defaults to (128, 192).
        seed: 0 or greater. Defaults to 0.
        bands: 3; or 5, for arrays with near infrared and thermal bands beside the pictures. Defaults to 3.
    """

    train: int = 400
    val: int = 80
    size: tuple[int, int] = (128, 192)
    seed: int = 0
    bands: int = 3

    def check(self) -> None:
        """Raise ``ValueError`` naming the argument, its value and what is allowed."""
        for name, value in (('train', self.train), ('val', self.val)):
            if not isinstance(value, int) or not 1 <= value <= MAX_SCENES:
                raise ValueError(f'{name} must be an integer from 1 to {MAX_SCENES}, got {value!r}')
        if len(self.size) != 2 or not all(isinstance(side, int) and MIN_SIZE <= side <= MAX_SIZE for side in self.size):
            raise ValueError(
                f'size must be a height and a width from {MIN_SIZE} to {MAX_SIZE} pixels, got {tuple(self.size)!r}'
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f'seed must be an integer of 0 or greater, got {self.seed!r}')
        if self.bands not in (3, len(BANDS)):
            raise ValueError(f'bands must be 3 or {len(BANDS)}, got {self.bands!r}')

    def record(self) -> dict:
        """The parameters as they are written to ``demo_scenes.json``."""
        record = {'version': VERSION, 'train': self.train, 'val': self.val, 'size': list(self.size), 'seed': self.seed}
        return record if self.bands == 3 else {**record, 'bands': self.bands}


def read_record(folder: str | os.PathLike) -> dict | None:
    """Parameters of the data set in a folder, or None where there is no complete one."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record.get('parameters') if isinstance(record, dict) else None


def write_demo_scenes(
    out: str | os.PathLike,
    params: DemoSceneParams | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Render a data set into a folder; do nothing where it is already there with the same parameters.

    The scenes are written to a folder beside ``out`` that takes its name when it is complete.

    Args:
        out: The folder, new or empty, or one with a data set of this kind.
        params: What to render. Defaults to None, ``DemoSceneParams()``.
        force: Replace a data set of this kind that has other parameters. Defaults to False.
        progress: Called with the numbers of scenes done and to do. Defaults to None.

    Returns:
        True where the data set was written, False where it was there already.

    Raises:
        ValueError: If a parameter is out of range.
        FileExistsError: If the folder holds something else, or, without ``force``, scenes with other parameters.
    """
    params = DemoSceneParams() if params is None else params
    params.check()
    out = Path(out)
    found = read_record(out)
    if found == params.record() and not force:
        return False
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is a file; choose another folder for the scenes')
    if out.is_dir() and any(out.iterdir()):
        if found is None:
            raise FileExistsError(
                f'{out} holds other files and would be lost; choose a new folder, or empty this one yourself'
            )
        if not force:
            raise FileExistsError(
                f'{out} holds scenes made with {found}, not with {params.record()}; '
                'choose another folder, or replace them with --force'
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.parent / f'.{out.name}.{uuid.uuid4().hex[:8]}.part'
    try:
        _write(draft, params, progress)
        if out.is_dir():
            shutil.rmtree(out)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _write(root: Path, params: DemoSceneParams, progress: Callable[[int, int], None] | None) -> None:
    done, total = 0, params.train + params.val
    statistics = {}
    for split, number in zip(SPLITS, (params.train, params.val), strict=True):
        images = root / 'ADEChallengeData2016' / 'images' / split.ade_folder
        labels = root / 'ADEChallengeData2016' / 'annotations' / split.ade_folder
        pictures, annotations = root / 'coco' / split.coco_name, root / 'coco' / 'annotations'
        for folder in (images, labels, pictures, annotations):
            folder.mkdir(parents=True, exist_ok=True)
        coco = {
            'info': {'description': 'mmvim demo scenes', 'version': str(VERSION)},
            'licenses': [],
            'images': [],
            'annotations': [],
            'categories': coco_categories(),
        }
        pixels = np.zeros(256, np.int64)
        for index in range(number):
            scene = render_scene(params.seed, split.number, index, params.size)
            stem = f'{split.ade_prefix}_{index + 1:08d}'
            _save(images / f'{stem}.jpg', scene.image[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
            _save(labels / f'{stem}.png', scene.semantic, cv2.IMWRITE_PNG_COMPRESSION, 9)
            image_id = split.first_id + index
            if params.bands != 3:
                _save_bands(root, split.ade_folder, stem, render_bands(scene, params.seed, split.number, index))
            _link(images / f'{stem}.jpg', pictures / f'{image_id:012d}.jpg')
            _annotate(coco, scene, image_id)
            pixels += np.bincount(scene.semantic.ravel(), minlength=256)
            done += 1
            if progress is not None:
                progress(done, total)
        _dump(annotations / f'instances_{split.coco_name}.json', coco)
        statistics[split.ade_folder] = {
            'instances': len(coco['annotations']),
            'pixels': {name: int(pixels[value]) for name, value in ADE_IDS.items()},
        }
    _dump(
        root / RECORD,
        {
            'about': 'Scenes rendered by mmvim: no photographs, no licence needed.',
            'parameters': params.record(),
            'themes': [theme.name for theme in THEMES],
            'ade20k_values': ADE_IDS,
            'splits': statistics,
        },
        indent=2,
    )


def _annotate(coco: dict, scene: Scene, image_id: int) -> None:
    """Add a scene's image and instances to a COCO dictionary."""
    height, width = scene.semantic.shape
    coco['images'].append({'id': image_id, 'file_name': f'{image_id:012d}.jpg', 'height': height, 'width': width})
    ids = coco_ids()
    for number, instance in enumerate(scene.instances):
        outline = (
            {'size': [height, width], 'counts': run_lengths(instance.mask)}
            if instance.crowd
            else polygons(instance.mask)
        )
        coco['annotations'].append(
            {
                'id': image_id * 1000 + number,
                'image_id': image_id,
                'category_id': ids[instance.category],
                'segmentation': outline,
                'area': int(instance.mask.sum()),
                'bbox': box(instance.mask),
                'iscrowd': int(instance.crowd),
            }
        )


def _save(path: Path, image: np.ndarray, option: int, value: int) -> None:
    encoded, data = cv2.imencode(path.suffix, np.ascontiguousarray(image), [option, value])
    if not encoded:
        raise OSError(f'OpenCV could not encode {path.name}; its build lacks the {path.suffix} format')
    path.write_bytes(data.tobytes())  # unlike cv2.imwrite, this raises on a full disk


def _save_bands(root: Path, folder: str, stem: str, bands: np.ndarray) -> None:
    path = root / 'ADEChallengeData2016' / 'bands' / folder / f'{stem}.npy'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, bands)


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError):  # a file system without hard links
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _dump(path: Path, content: dict, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, indent=indent) + '\n', encoding='utf-8')
