"""A picture and its annotation, painted back to front.

Everything is painted at twice the final size. Colours are then averaged over 2 x 2 samples, which smooths the edges,
while every pixel keeps one single segment, so labels stay exact.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from scenes.exact import sample
from scenes.shapes import Ellipse, Polygon, Rod

RGB = tuple[float, float, float]

OVERSAMPLING = 2


class Segment(NamedTuple):
    """One region of the annotation: a stretch of background or one thing."""

    name: str
    """Name of a semantic class, or ``'other'``."""
    category: str | None
    """COCO category of a thing, None for background and for things that COCO does not know."""
    crowd: bool
    """Whether the segment is a group that was not separated into its members."""


class Shape(Protocol):
    """What can be filled: a bounding box and a test for being inside."""

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in samples."""

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Boolean mask for columns x (1, w) and rows y (h, 1)."""


class Patch(NamedTuple):
    """The part of a canvas that a shape's bounding box covers."""

    area: tuple[slice, slice]
    x: np.ndarray
    """(1, w) float32, sample centres."""
    y: np.ndarray
    """(h, 1) float32, sample centres."""


class Canvas:
    """Colours and segments of one scene.

    Args:
        height: Height of the finished picture in pixels.
        width: Width of the finished picture in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height * OVERSAMPLING, width * OVERSAMPLING
        self.rgb = np.zeros((self.height, self.width, 3), np.float32)
        self.owner = np.zeros((self.height, self.width), np.int32)
        self.segments: list[Segment] = []
        self.x = np.arange(self.width, dtype=np.float32)[None, :] + np.float32(0.5)
        self.y = np.arange(self.height, dtype=np.float32)[:, None] + np.float32(0.5)

    def segment(self, name: str, category: str | None = None, crowd: bool = False) -> int:
        """Open a segment and return its number; later ones count as nearer to the viewer."""
        self.segments.append(Segment(name, category, crowd))
        return len(self.segments) - 1

    def patch(self, box: tuple[float, float, float, float]) -> Patch | None:
        """The patch under a box (left, top, right, bottom), or None where it lies outside the canvas."""
        left, top = max(int(np.floor(box[0])), 0), max(int(np.floor(box[1])), 0)
        right, bottom = min(int(np.ceil(box[2])), self.width), min(int(np.ceil(box[3])), self.height)
        if left >= right or top >= bottom:
            return None
        return Patch((slice(top, bottom), slice(left, right)), self.x[:, left:right], self.y[top:bottom])

    def paint(self, patch: Patch, mask: np.ndarray, colour: np.ndarray, segment: int | None) -> None:
        """Set the colour, (3,) or (h, w, 3), and the owner of the masked samples; None keeps their owner."""
        colour = np.broadcast_to(np.asarray(colour, np.float32), (*mask.shape, 3))
        self.rgb[patch.area][mask] = colour[mask]
        if segment is not None:
            self.owner[patch.area][mask] = segment

    def darken(self, shape: Shape, factor: float) -> None:
        """Multiply the colours under a shape: a cast shadow. Owners stay."""
        patch = self.patch(shape.box())
        if patch is not None:
            mask = shape.inside(patch.x, patch.y)
            self.rgb[patch.area][mask] *= np.float32(factor)

    def picture(self) -> np.ndarray:
        """Colours at the final size: the mean of each 2 x 2 block, (H, W, 3) float32, not clipped."""
        rgb = self.rgb
        return (rgb[::2, ::2] + rgb[1::2, ::2] + rgb[::2, 1::2] + rgb[1::2, 1::2]) * np.float32(0.25)

    def owners(self) -> np.ndarray:
        """Segment of each final pixel, (H, W) int32: the most frequent of its four samples, the nearest in a tie."""
        owner = self.owner
        four = np.stack([owner[::2, ::2], owner[1::2, ::2], owner[::2, 1::2], owner[1::2, 1::2]])
        a, b, c, d = np.sort(four, axis=0)
        return np.where(b == c, b, np.where(c == d, d, np.where(a == b, a, d)))


class Light(NamedTuple):
    """Illumination of a scene."""

    tint: np.ndarray
    """(3,) float32, multiplies every albedo."""
    haze: np.ndarray
    """(3,) float32, the colour that distant things fade to."""
    side: int
    """-1 where the light comes from the left, 1 from the right."""
    strength: float
    """Difference between lit and unlit sides, 0 (overcast) to 1."""


class Brush:
    """Paints one thing in coordinates of its own: metres, x to the right and y up from the middle of its foot.

    Args:
        canvas: Where to paint.
        segment: The segment that the painted samples belong to.
        foot: Where the local origin is, x and y in samples.
        scale: Samples per metre.
        light: Illumination.
        fade: Share of haze in the colour, 0 to 1. Defaults to 0.
        flip: Whether to mirror x. Defaults to False.
    """

    def __init__(
        self,
        canvas: Canvas,
        segment: int,
        foot: tuple[float, float],
        scale: float,
        light: Light,
        fade: float = 0.0,
        flip: bool = False,
    ) -> None:
        self.canvas, self.segment, self.light = canvas, segment, light
        self.foot, self.scale, self.fade, self.flip = foot, scale, fade, flip

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Samples of a local point."""
        return self.foot[0] + (-x if self.flip else x) * self.scale, self.foot[1] - y * self.scale

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: RGB, ragged: float = 0.0, **look: float
    ) -> None:
        """Fill an ellipse around a local point, radii in metres; ``look`` as in :meth:`fill`."""
        column, row = self.at(x, y)
        self.fill(Ellipse(column, row, rx * self.scale, ry * self.scale, ragged), colour, **look)

    def polygon(self, points: Sequence[tuple[float, float]], colour: RGB, **look: float) -> None:
        """Fill a polygon of local points."""
        self.fill(Polygon([self.at(x, y) for x, y in points]), colour, **look)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, **look: float) -> None:
        """Fill a rectangle between two local corners."""
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, **look)

    def rod(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        width: float,
        colour: RGB,
        end: float | None = None,
        thinnest: float = 0.0,
        **look: float,
    ) -> None:
        """Fill a round-ended line; widths in metres, ``thinnest`` in samples for what must stay visible far away."""
        radius = max(width / 2 * self.scale, thinnest / 2)
        end_radius = radius if end is None else max(end / 2 * self.scale, thinnest / 2)
        self.fill(Rod(self.at(x0, y0), self.at(x1, y1), radius, end_radius), colour, **look)

    def fill(self, shape: Shape, colour: RGB, round_: float = 0.0, grain: float = 0.0, leaves: float = 0.0) -> None:
        """Fill a shape given in samples.

        Args:
            shape: What to fill.
            colour: Albedo, 0 to 1.
            round_: How much the side away from the light is darker, across the shape's box. Defaults to 0.
            grain: Strength of fine noise. Defaults to 0.
            leaves: Strength of coarse noise. Defaults to 0.
        """
        box = shape.box()
        patch = self.canvas.patch(box)
        if patch is None:
            return
        mask = shape.inside(patch.x, patch.y)
        value = np.ones(mask.shape, np.float32)
        if round_:
            middle, half = (box[0] + box[2]) / 2, max((box[2] - box[0]) / 2, 1e-3)
            across = (patch.x - np.float32(middle)) * np.float32(self.light.side / half)
            down = (patch.y - np.float32(box[1])) * np.float32(1 / max(box[3] - box[1], 1e-3))
            amount = np.float32(round_ * (0.35 + 0.65 * self.light.strength))
            value = value + amount * (across * np.float32(0.6) - down * np.float32(0.6) + np.float32(0.1))
        offset = self.segment * 37
        if grain:
            value = value + np.float32(grain) * (sample('grain', patch.x + offset, patch.y) - np.float32(0.5))
        if leaves:
            value = value + np.float32(leaves) * (sample('rough', patch.x + offset, patch.y) - np.float32(0.5))
        lit = np.asarray(colour, np.float32) * self.light.tint
        rgb = lit * value[..., None]
        if self.fade:
            rgb = rgb + (self.light.haze - rgb) * np.float32(self.fade)
        self.canvas.paint(patch, mask, rgb, self.segment)
