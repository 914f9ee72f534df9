"""The stage of a scene: backdrop, things on free ground at their true sizes, and the photograph of it all."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scenes import figures, nature, street
from scenes.backdrop import (
    WEATHERS,
    Camera,
    Road,
    paint_grass,
    paint_mountains,
    paint_road,
    paint_sea,
    paint_sky,
)
from scenes.canvas import Brush, Canvas, Light
from scenes.dice import Dice
from scenes.exact import bell, ridge
from scenes.shapes import Ellipse

Painter = Callable[[Brush, Dice], None]


class _Item(NamedTuple):
    row: float
    column: float
    paint: Painter
    name: str
    category: str | None
    shadow: float
    """Half the width of the cast shadow in metres, 0 for none."""
    lift: float
    """Metres above the ground."""


class Stage:
    """A scene while it is being set: backdrop painted, things collected, then painted from far to near."""

    def __init__(self, dice: Dice, height: int, width: int) -> None:
        self.dice = dice
        self.canvas = Canvas(height, width)
        share = dice.between(0.34, 0.50)
        self.camera = Camera(self.canvas.height * share, dice.between(1.9, 2.9))
        self.depth = self.canvas.height - self.camera.horizon
        self.road: Road | None = None
        self.shore: np.ndarray | None = None
        self.items: list[_Item] = []
        self.light: Light

    def row(self, t: float) -> float:
        """Row at a share of the way from the horizon (0) to the bottom edge (1)."""
        return self.camera.horizon + self.depth * t

    def backdrop(self, mountains: float, coast: bool, road: float, half_road: tuple[float, float]) -> None:
        """Paint sky, mountains, ground, sea and road.

        Args:
            mountains: Probability of mountains.
            coast: Whether there is a sea.
            road: Probability of a road.
            half_road: Range of half the width of a road that leads away, in metres.
        """
        dice, canvas, camera = self.dice, self.canvas, self.camera
        weather = dice.pick(WEATHERS)
        self.light = paint_sky(canvas, camera, weather, dice)
        if dice.chance(mountains):
            paint_mountains(canvas, camera, self.light, dice)
        paint_grass(canvas, camera, self.light, dice)
        if coast:
            swing = ridge(dice.generator, canvas.width, canvas.width * dice.between(0.5, 1.2), 3)
            tilt = (canvas.x[0] / np.float32(canvas.width) - np.float32(0.5)) * np.float32(dice.between(-0.25, 0.25))
            shore = np.float32(dice.between(0.28, 0.55)) + (swing - np.float32(0.5)) * np.float32(0.16) + tilt
            self.shore = np.float32(camera.horizon) + np.float32(self.depth) * np.clip(shore, 0.12, 0.75)
            paint_sea(canvas, camera, weather, self.light, self.shore, dice)
        if dice.chance(road):
            self.road = self._road(half_road)
            paint_road(canvas, camera, self.light, self.road, dice)

    def _road(self, half_road: tuple[float, float]) -> Road:
        """A road that leads away or crosses; along a shore it can only cross."""
        dice, width = self.dice, self.canvas.width
        if self.shore is None and dice.chance(0.65):
            vanish, bend = width * dice.between(0.3, 0.7), width * dice.between(-0.10, 0.10)
            return Road(True, dice.between(-1.6, 1.6), vanish, bend, dice.between(*half_road))
        share = dice.between(0.42, 0.72) if self.shore is None else dice.between(0.80, 0.88)
        return Road(False, self.row(share), 0.0, 0.0, self.depth * dice.between(0.11, 0.16))

    def free(self, column: float, row: float, margin: float) -> bool:
        """Whether a thing can stand here: on dry grass, off the road, not right at another one's foot."""
        if self.shore is not None and row < float(self.shore[min(max(int(column), 0), self.canvas.width - 1)]) + 3:
            return False
        if self.road is not None and self.road.covers(self.canvas, self.camera, column, row, margin):
            return False
        return self.apart(column, row)

    def apart(self, column: float, row: float) -> bool:
        """Whether no other foot is so near that one thing would hide the other."""
        reach = self.camera.scale(row)
        return all(abs(item.column - column) > reach * 0.9 or abs(item.row - row) > reach * 0.6 for item in self.items)

    def put(
        self,
        paint: Painter,
        name: str,
        column: float,
        row: float,
        category: str | None = None,
        shadow: float = 0.0,
        lift: float = 0.0,
    ) -> None:
        """Collect a thing."""
        self.items.append(_Item(row, column, paint, name, category, shadow, lift))

    def scatter(
        self,
        number: int,
        paint: Painter | tuple[Painter, ...],
        name: str,
        near: tuple[float, float],
        category: str | None = None,
        shadow: float = 0.5,
        margin: float = 0.5,
        lift: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Collect things on free ground; ``near`` is the range of distances as for :meth:`row`."""
        for _ in range(number):
            for _ in range(20):
                row = self.row(self.dice.between(*near))
                column = self.canvas.width * self.dice.between(0.03, 0.97)
                if self.free(column, row, margin):
                    chosen = self.dice.pick(paint) if isinstance(paint, tuple) else paint
                    self.put(chosen, name, column, row, category, shadow, self.dice.between(*lift))
                    break

    def animals(self, number: int, kinds: tuple[str, ...], near: tuple[float, float]) -> None:
        """Collect animals, each of one of the kinds."""
        for _ in range(number):
            kind = self.dice.pick(kinds)
            self.scatter(1, nature.ANIMALS[kind], 'animal', near, kind, 0.9 if kind in ('cow', 'horse') else 0.6)

    def balls(self, number: int) -> None:
        """Collect balls, on the ground or in the air."""
        for _ in range(number):
            lift = (0.6, 2.6) if self.dice.chance(0.4) else (0.0, 0.0)
            self.scatter(1, figures.ball, 'ball', (0.35, 0.92), 'sports ball', 0.45, lift=lift)

    def town(self, near: tuple[float, float], gap: float) -> None:
        """Collect a row of buildings along the horizon, with gaps."""
        column = self.canvas.width * self.dice.between(-0.05, 0.08)
        while column < self.canvas.width * 1.02:
            row = self.row(self.dice.between(*near))
            tall = self.dice.chance(0.55)
            wide = (8.5 if tall else 6.2) * self.camera.scale(row)
            centre = column + wide / 2
            if not (
                self.road is not None
                and self.road.lengthwise
                and self.road.covers(self.canvas, self.camera, centre, row, 3.0)
            ):
                self.put(street.block if tall else street.house, 'building', centre, row)
            column += wide * self.dice.between(0.92, 1.05) + (
                wide * self.dice.between(0.3, 1.6) if self.dice.chance(gap) else 0
            )

    def traffic(self, number: int) -> None:
        """Collect cars on the road, from the side where it crosses the picture, from an end where it leads away."""
        road, dice = self.road, self.dice
        if road is None:
            return
        for _ in range(number):
            for _ in range(20):
                if road.lengthwise:
                    row = self.row(dice.between(0.14, 0.80))
                    lane = dice.sign() * road.half * 0.48 if road.half > 1.6 else 0.0
                    column = float(road.middle(self.canvas, self.camera, row)) + lane * self.camera.scale(row)
                    paint: Painter = street.car_end
                else:
                    row = road.centre + road.half * dice.pick((-0.30, 0.72))
                    column = self.canvas.width * dice.between(0.05, 0.95)
                    paint = street.car_side
                reach = self.camera.scale(row) * (2.2 if road.lengthwise else 4.6)
                if all(
                    item.name != 'car' or abs(item.column - column) > reach or abs(item.row - row) > reach * 0.5
                    for item in self.items
                ):
                    self.put(paint, 'car', column, row, 'car', 1.0 if road.lengthwise else 2.2)
                    break

    def parked(self, number: int) -> None:
        """Collect cars on the grass, from the side."""
        self.scatter(number, street.car_side, 'car', (0.25, 0.60), 'car', 2.2, margin=1.2)

    def roadside(
        self, number: int, paint: Painter, name: str, category: str | None = None, shadow: float = 0.3
    ) -> None:
        """Collect things along the edge of the road, or anywhere without one."""
        road, dice = self.road, self.dice
        if road is None:
            self.scatter(number, paint, name, (0.2, 0.7), category, shadow)
            return
        for _ in range(number):
            for _ in range(20):
                if road.lengthwise:
                    row = self.row(dice.between(0.16, 0.72))
                    offset = dice.sign() * (road.half + dice.between(0.5, 1.1)) * self.camera.scale(row)
                    column = float(road.middle(self.canvas, self.camera, row)) + offset
                else:
                    row = (
                        road.centre - road.half * dice.between(1.12, 1.3)
                        if dice.chance(0.75)
                        else road.centre + road.half * 1.25
                    )
                    column = self.canvas.width * dice.between(0.05, 0.95)
                if (
                    0.03 < column / self.canvas.width < 0.97
                    and row < self.canvas.height
                    and self.free(column, row, 0.15)
                ):
                    self.put(paint, name, column, row, category, shadow)
                    break

    def signs(self, number: int) -> None:
        """Collect signboards along the road."""
        for _ in range(number):
            kind = self.dice.pick(tuple(street.SIGNS))
            self.roadside(1, street.SIGNS[kind], 'signboard', 'stop sign' if kind == 'stop sign' else None)

    def fleet(self, number: int) -> None:
        """Collect boats on the sea."""
        if self.shore is None:
            return
        for _ in range(number):
            for _ in range(20):
                column = self.canvas.width * self.dice.between(0.06, 0.94)
                water = float(self.shore[int(column)]) - self.camera.horizon
                row = self.camera.horizon + water * self.dice.between(0.25, 0.85)
                reach = self.camera.scale(row) * 3
                if all(item.name != 'boat' or abs(item.column - column) > reach for item in self.items):
                    self.put(self.dice.pick(figures.BOATS), 'boat', column, row, 'boat', 1.9)
                    break

    def paint_things(self) -> None:
        """Paint what was collected, the farthest first, each over its shadow."""
        canvas, dice = self.canvas, self.dice
        for item in sorted(self.items, key=lambda item: item.row):
            scale = self.camera.scale(item.row)
            t = (item.row - self.camera.horizon) / self.depth
            if item.shadow:
                depth = 0.18 + 0.30 * self.light.strength
                wide = item.shadow * scale
                shift = -self.light.side * wide * 0.35 * self.light.strength
                canvas.darken(Ellipse(item.column + shift, item.row, wide, max(wide * 0.20, 1.0)), 1 - depth)
            segment = canvas.segment(item.name, item.category, item.paint is figures.crowd)
            foot = (item.column, item.row - item.lift * scale)
            brush = Brush(canvas, segment, foot, scale, self.light, 0.46 * max(0.0, 1 - t / 0.35), dice.chance(0.5))
            item.paint(brush, dice)

    def develop(self) -> np.ndarray:
        """The finished photograph: exposure, vignette, sensor noise, 8 bits."""
        dice, rgb = self.dice, self.canvas.picture()
        height, width = rgb.shape[:2]
        y = (np.arange(height, dtype=np.float32)[:, None] / np.float32(height) - np.float32(0.5)) * 2
        x = (np.arange(width, dtype=np.float32)[None, :] / np.float32(width) - np.float32(0.5)) * 2
        vignette = np.float32(1) - np.float32(dice.between(0.0, 0.10)) * (x * x + y * y)
        rgb = rgb * (vignette * np.float32(dice.between(0.92, 1.08)))[..., None]
        contrast = np.float32(dice.between(0.92, 1.10))
        rgb = (rgb - np.float32(0.5)) * contrast + np.float32(0.5)
        noise = bell(dice.generator, (height, width, 1)) + bell(dice.generator, rgb.shape) * np.float32(0.5)
        rgb = rgb + noise * np.float32(dice.between(0.004, 0.020))
        return np.floor(np.clip(rgb, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
