"""A scene: its picture, its semantic annotation and its instances."""

from typing import NamedTuple

import numpy as np

from scenes.classes import ADE_IDS
from scenes.dice import Dice
from scenes.stage import Stage
from scenes.themes import THEMES, Theme, arrange_extras

MIN_SIZE = 64
LEAST_SHARE = 0.002
"""Smallest share of the picture that counts as visible."""
SMALLEST_THING = 12
"""Things with fewer visible pixels are left out of the instances, as annotators leave them out."""
ATTEMPTS = 60


class Instance(NamedTuple):
    """A thing that COCO has a category for."""

    category: str
    mask: np.ndarray
    """(H, W) bool, the visible part."""
    crowd: bool


class Scene(NamedTuple):
    """A rendered scene."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    semantic: np.ndarray
    """(H, W) uint8, ADE20K's values: 0 other, 1 to 150 classes."""
    instances: list[Instance]


def _attempt(dice: Dice, theme: Theme, height: int, width: int) -> tuple[Scene, dict[str, int]]:
    """A scene and the number of visible pixels of each class in it."""
    stage = Stage(dice, height, width)
    stage.backdrop(theme.mountains, theme.coast, theme.road, theme.half_road)
    theme.arrange(stage)
    arrange_extras(stage)
    stage.paint_things()
    image = stage.develop()
    owners, segments = stage.canvas.owners(), stage.canvas.segments
    ids = np.array([ADE_IDS[segment.name] for segment in segments], np.uint8)
    sizes = np.bincount(owners.ravel(), minlength=len(segments))
    instances = [
        Instance(segment.category, owners == number, segment.crowd)
        for number, segment in enumerate(segments)
        if segment.category is not None and sizes[number] >= SMALLEST_THING
    ]
    pixels: dict[str, int] = {}
    for segment, size in zip(segments, sizes, strict=True):
        pixels[segment.name] = pixels.get(segment.name, 0) + int(size)
    return Scene(image, ids[owners], instances), pixels


def render_scene(seed: int, split: int, index: int, size: tuple[int, int]) -> Scene:
    """Render one scene. Equal arguments give equal bytes on every machine.

    Args:
        seed: Seed of the data set, 0 or greater.
        split: 0 for training, 1 for validation; the splits share no scene.
        index: Number of the scene in its split, from 0. It decides the theme, in turn, so that four scenes in a
            row contain every class.
        size: Height and width in pixels, each 64 or more.

    Returns:
        Picture, semantic annotation and instances.

    Raises:
        ValueError: If a number is negative or the size is too small.
        RuntimeError: If no arrangement shows all the classes that the theme requires (a very elongated picture).
    """
    if min(seed, split, index) < 0:
        raise ValueError(f'seed, split and index must be 0 or greater, got {seed}, {split} and {index}')
    height, width = size
    if min(height, width) < MIN_SIZE:
        raise ValueError(f'size must be at least {MIN_SIZE} x {MIN_SIZE} (height x width), got {height} x {width}')
    theme = THEMES[index % len(THEMES)]
    for attempt in range(ATTEMPTS):
        scene, pixels = _attempt(Dice((seed, split, index, attempt)), theme, height, width)
        if all(pixels.get(name, 0) >= LEAST_SHARE * height * width for name in theme.required):
            return scene
    raise RuntimeError(
        f'no {theme.name} scene of {height} x {width} shows all of {", ".join(theme.required)} after {ATTEMPTS} '
        'attempts; choose a size whose sides differ less'
    )
