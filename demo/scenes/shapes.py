"""Shapes in sample coordinates, each with a bounding box and an exact inside test."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scenes.exact import sample

Point = tuple[float, float]


class Ellipse(NamedTuple):
    """Axis-parallel ellipse; ``ragged`` roughens its outline by that share of the radius (foliage, fleece)."""

    x: float
    y: float
    rx: float
    ry: float
    ragged: float = 0.0

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        rx, ry = self.rx * (1 + self.ragged), self.ry * (1 + self.ragged)
        return self.x - rx, self.y - ry, self.x + rx, self.y + ry

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Mask (h, w)."""
        dx, dy = (x - np.float32(self.x)) / np.float32(self.rx), (y - np.float32(self.y)) / np.float32(self.ry)
        radius = dx * dx + dy * dy
        if not self.ragged:
            return radius <= 1
        limit = np.float32(1) + np.float32(4 * self.ragged) * (sample('rough', x * 2, y * 2) - np.float32(0.5))
        return radius <= limit


class Polygon(NamedTuple):
    """Any simple polygon, by the even-odd rule."""

    points: Sequence[Point]

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Mask (h, w)."""
        mask = np.zeros((y.shape[0], x.shape[1]), bool)
        x0, y0 = self.points[-1]
        for x1, y1 in self.points:
            if y0 != y1:
                crosses = (y < np.float32(y0)) != (y < np.float32(y1))
                edge = np.float32(x0) + (y - np.float32(y0)) * np.float32((x1 - x0) / (y1 - y0))
                mask ^= crosses & (x < edge)
            x0, y0 = x1, y1
        return mask


class Rod(NamedTuple):
    """Line from one point to another with round ends; its radius changes linearly between them."""

    start: Point
    end: Point
    radius: float
    end_radius: float

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        (x0, y0), (x1, y1), r = self.start, self.end, max(self.radius, self.end_radius)
        return min(x0, x1) - r, min(y0, y1) - r, max(x0, x1) + r, max(y0, y1) + r

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Mask (h, w)."""
        (x0, y0), (x1, y1) = self.start, self.end
        dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
        px, py = x - np.float32(x0), y - np.float32(y0)
        along = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, np.float32(1e-6)), 0, 1)
        radius = np.float32(self.radius) + along * np.float32(self.end_radius - self.radius)
        px, py = px - along * dx, py - along * dy
        return px * px + py * py <= radius * radius
