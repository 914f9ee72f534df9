"""A scene as a camera of five bands sees it: red, green, blue, near infrared and thermal, 12 bits each.

The colours are those of the picture. The other two are made from what stands at a pixel and from how bright it is:
plants shine in near infrared and water swallows it; people, animals and engines are warm, and the sky is cold. All of
it is arithmetic on integers, so that equal scenes have equal bands on every machine.
"""

import numpy as np

from scenes.classes import ADE_IDS, OTHER
from scenes.dice import Dice
from scenes.scene import ATTEMPTS, Scene

BANDS = ('red', 'green', 'blue', 'near infrared', 'thermal')
TOP = 4095
"""Largest value of 12 bits."""
NOISE = 48

# Per class: reflectance in near infrared in 1/256, and warmth in 1/256 of the range.
_NEAR_INFRARED = {
    OTHER: 90, 'building': 110, 'sky': 40, 'tree': 205, 'road': 70, 'grass': 225, 'person': 120, 'mountain': 95,
    'car': 85, 'sea': 14, 'signboard': 130, 'boat': 140, 'streetlight': 60, 'ball': 100, 'animal': 115,
}  # fmt: skip
_WARMTH = {
    OTHER: 120, 'building': 140, 'sky': 20, 'tree': 100, 'road': 165, 'grass': 110, 'person': 225, 'mountain': 90,
    'car': 185, 'sea': 75, 'signboard': 125, 'boat': 115, 'streetlight': 130, 'ball': 118, 'animal': 235,
}  # fmt: skip


def _table(values: dict[str, int]) -> np.ndarray:
    table = np.zeros(256, np.int32)
    for name, value in values.items():
        table[ADE_IDS[name]] = value
    return table


def render_bands(scene: Scene, seed: int, split: int, index: int) -> np.ndarray:
    """Render the bands of a scene.

    Args:
        scene: What :func:`scenes.scene.render_scene` made of the same numbers.
        seed: Seed of the data set.
        split: 0 for training, 1 for validation.
        index: Number of the scene in its split.

    Returns:
        (H, W, 5) uint16, 0 to 4095.
    """
    generator = Dice((seed, split, index, ATTEMPTS)).generator  # a key that no attempt at a scene has
    colours = scene.image.astype(np.int32)
    light = colours.sum(2) // 3  # (H, W), 0 to 255
    noise = generator.integers(-NOISE, NOISE + 1, (*light.shape, len(BANDS)), np.int32)
    near_infrared = _table(_NEAR_INFRARED)[scene.semantic] * (128 + light) // 24
    thermal = _table(_WARMTH)[scene.semantic] * 14 + light
    bands = np.concatenate([colours * 16, near_infrared[..., None], thermal[..., None]], axis=2)  # (H, W, 5)
    return np.clip(bands + noise, 0, TOP).astype(np.uint16)
