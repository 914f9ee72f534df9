"""Sky, mountains, sea, grass and road: what fills the picture behind the things."""

from typing import NamedTuple

import numpy as np

from scenes.canvas import Canvas, Light
from scenes.dice import Dice
from scenes.exact import mix, ridge, sample, smooth, wave

RGB = tuple[float, float, float]


class Camera(NamedTuple):
    """A pinhole camera above flat ground."""

    horizon: float
    """Row of the horizon, in samples."""
    height: float
    """Metres above the ground."""

    def scale(self, row: float) -> float:
        """Samples per metre for a thing that stands on the ground at this row."""
        return max(row - self.horizon, 1.0) / self.height

    def row(self, scale: float) -> float:
        """Row where things have this scale."""
        return self.horizon + scale * self.height


class Weather(NamedTuple):
    """Colours of a time of day."""

    name: str
    zenith: RGB
    low_sky: RGB
    cloud: RGB
    cloud_shade: RGB
    tint: RGB
    strength: float
    sun: RGB | None
    """Colour of the sun's or moon's disc, None where the sky hides it."""


WEATHERS = (
    Weather(
        'noon',
        (0.25, 0.52, 0.86),
        (0.72, 0.86, 0.95),
        (1.0, 1.0, 1.0),
        (0.80, 0.85, 0.91),
        (1.04, 1.02, 0.98),
        0.8,
        (1.0, 0.97, 0.80),
    ),
    Weather(
        'morning',
        (0.46, 0.66, 0.86),
        (0.98, 0.90, 0.78),
        (1.0, 0.96, 0.92),
        (0.86, 0.82, 0.86),
        (1.05, 0.98, 0.89),
        0.7,
        (1.0, 0.91, 0.62),
    ),
    Weather(
        'evening',
        (0.36, 0.36, 0.62),
        (0.99, 0.66, 0.40),
        (1.0, 0.76, 0.60),
        (0.60, 0.46, 0.58),
        (1.03, 0.86, 0.74),
        0.9,
        (1.0, 0.55, 0.22),
    ),
    Weather(
        'overcast',
        (0.66, 0.70, 0.75),
        (0.84, 0.86, 0.87),
        (0.90, 0.91, 0.92),
        (0.62, 0.65, 0.70),
        (0.90, 0.92, 0.94),
        0.15,
        None,
    ),
    Weather(
        'dusk',
        (0.13, 0.17, 0.38),
        (0.64, 0.46, 0.58),
        (0.48, 0.42, 0.58),
        (0.27, 0.27, 0.44),
        (0.66, 0.66, 0.84),
        0.4,
        (0.96, 0.95, 0.88),
    ),
)


def paint_sky(canvas: Canvas, camera: Camera, weather: Weather, dice: Dice) -> Light:
    """Paint gradient, sun and clouds down to the horizon; return the light of the scene."""
    segment = canvas.segment('sky')
    bottom = min(int(camera.horizon) + 2, canvas.height)
    patch = canvas.patch((0, 0, canvas.width, bottom))
    low, zenith = np.array(weather.low_sky, np.float32), np.array(weather.zenith, np.float32)
    elevation = np.clip((np.float32(camera.horizon) - patch.y) / np.float32(camera.horizon), 0, 1)
    colour = mix(low, zenith, smooth(elevation, -0.1, 1.1)[..., None])
    colour = np.broadcast_to(colour, (bottom, canvas.width, 3)).copy()

    side = dice.sign()
    if weather.sun is not None and dice.chance(0.6):
        x = canvas.width * (0.5 + side * dice.between(0.15, 0.42))
        y = camera.horizon * dice.between(0.18, 0.75)
        radius = canvas.height * dice.between(0.025, 0.05)
        distance = (
            (patch.x - np.float32(x)) * (patch.x - np.float32(x))
            + (patch.y - np.float32(y)) * (patch.y - np.float32(y))
        ) / np.float32(radius * radius)
        glow = np.float32(0.55) / (np.float32(1) + distance * np.float32(0.12))
        disc = smooth(distance, 1.15, 0.85)
        colour = mix(colour, np.array(weather.sun, np.float32), np.maximum(glow, disc)[..., None])

    if dice.chance(0.85):
        cover = dice.between(0.46, 0.60) - (0.14 if weather.name == 'overcast' else 0.0)
        zoom = dice.between(0.9, 1.8)
        # A cloud layer is a flat ceiling: rows near the horizon look far away, so they are squeezed together.
        far = np.float32(1) / (elevation + np.float32(0.22))
        u = (patch.x - np.float32(canvas.width / 2)) * far * np.float32(zoom * 180 / canvas.width) + np.float32(
            dice.between(0, 512)
        )
        v = far * np.float32(110 * zoom) + np.float32(dice.between(0, 512))
        density = sample('cloud', u, v)
        shade = sample('cloud', u + np.float32(6 * side), v - 5)
        amount = smooth(density, cover, cover + 0.16) * smooth(elevation, 0.0, 0.25)
        body = mix(
            np.array(weather.cloud, np.float32),
            np.array(weather.cloud_shade, np.float32),
            smooth(shade, cover, cover + 0.3)[..., None],
        )
        colour = mix(colour, body, amount[..., None] * np.float32(0.92))
    canvas.paint(patch, np.ones(colour.shape[:2], bool), colour, segment)
    return Light(np.array(weather.tint, np.float32), mix(low, zenith, 0.15), side, weather.strength)


def paint_mountains(canvas: Canvas, camera: Camera, light: Light, dice: Dice) -> None:
    """Paint one to three ranges, the farther the paler; rocky with snow, or wooded and green."""
    segment = canvas.segment('mountain')
    layers = dice.count(1, 3)
    highest = camera.horizon * dice.between(0.35, 0.85)
    wooded = dice.chance(0.4)
    for layer in range(layers):
        near = (layer + 1) / layers
        height = highest * (1.15 - 0.55 * near) if layers > 1 else highest
        outline = ridge(dice.generator, canvas.width, canvas.width * dice.between(0.18, 0.42))
        # A slow swell lets the sky reach the horizon somewhere.
        swell = wave(canvas.x[0] / np.float32(canvas.width * dice.between(0.8, 1.6)) + np.float32(dice.between(0, 1)))
        outline = outline * np.float32(1.25) - np.float32(0.35) + swell * np.float32(0.25)
        top = np.float32(camera.horizon) - np.float32(height) * outline
        patch = canvas.patch((0, 0, canvas.width, camera.horizon + 2))
        mask = patch.y >= top[None, :]
        if wooded:
            base = dice.colour(dice.pick(((0.20, 0.38, 0.22), (0.28, 0.40, 0.22), (0.36, 0.36, 0.20))))
        else:
            base = dice.colour(dice.pick(((0.42, 0.42, 0.48), (0.48, 0.41, 0.36), (0.36, 0.44, 0.56))))
        slope = np.zeros_like(outline)
        slope[4:-4] = outline[8:] - outline[:-8]
        depth = patch.y - top[None, :]
        rough = sample(
            'rough', patch.x * np.float32(0.8) + depth * np.float32(0.5 * light.side), depth * np.float32(0.7)
        )
        lit = (
            np.float32(0.95)
            + np.float32(light.strength) * np.clip(-slope[None, :] * np.float32(2.2 * light.side), -0.35, 0.35)
            + (rough - np.float32(0.5)) * np.float32(0.7)
        )
        rgb = np.array(base, np.float32) * lit[..., None]
        if not wooded:
            snow_line = np.float32(camera.horizon - highest * dice.between(0.42, 0.75))
            snow = smooth(
                patch.y + (rough - np.float32(0.5)) * np.float32(highest * 0.35),
                float(snow_line) + 6,
                float(snow_line) - 6,
            )
            rgb = mix(rgb, np.array((0.95, 0.96, 1.0), np.float32) * np.clip(lit, 0.7, 1.1)[..., None], snow[..., None])
        rgb = mix(rgb * light.tint, light.haze, 0.62 - 0.42 * near)
        mist = smooth(patch.y, camera.horizon - highest * 0.35, camera.horizon) * np.float32(0.35)
        canvas.paint(patch, mask, mix(rgb, light.haze, mist[..., None]), segment)


def paint_sea(canvas: Canvas, camera: Camera, weather: Weather, light: Light, shore: np.ndarray, dice: Dice) -> int:
    """Paint water from the horizon to the shore line, one row per column; return its segment."""
    segment = canvas.segment('sea')
    patch = canvas.patch((0, camera.horizon, canvas.width, float(shore.max()) + 1))
    mask = patch.y < shore[None, :]
    distance = patch.y - np.float32(camera.horizon) + np.float32(1.5)
    deep = np.array(dice.colour(dice.pick(((0.10, 0.34, 0.52), (0.08, 0.42, 0.50), (0.16, 0.36, 0.62)))), np.float32)
    reflected = mix(np.array(weather.low_sky, np.float32), np.array(weather.zenith, np.float32), 0.55)
    closeness = np.clip(distance / np.float32(max(float(shore.max()) - camera.horizon, 4.0)), 0, 1)
    rgb = mix(mix(reflected, deep, 0.45), deep * light.tint, closeness[..., None] * np.float32(0.8))
    # Waves are rows of crests whose spacing shrinks with distance; the noise bends and breaks them.
    far = np.float32(camera.height * 40) / distance
    bend = sample('rough', patch.x * np.float32(0.6) * far / np.float32(4) + 31, far * 9)
    crest = wave(far * np.float32(0.9) + bend * np.float32(1.6))
    ripple = sample('grain', patch.x * np.float32(0.35), far * 22)
    value = np.float32(1) + crest * np.float32(0.07) + (ripple - np.float32(0.5)) * np.float32(0.30)
    rgb = rgb * value[..., None]
    sparkle = smooth(crest * ripple, 0.52, 0.75) * np.float32(0.5 * light.strength)
    rgb = mix(rgb, np.array(weather.low_sky, np.float32), sparkle[..., None])
    foam = smooth(shore[None, :] - patch.y + (bend - np.float32(0.5)) * 8, 7, 1)
    rgb = mix(rgb, np.array((0.95, 0.96, 0.96), np.float32) * light.tint, foam[..., None] * np.float32(0.8))
    canvas.paint(patch, mask, rgb, segment)
    return segment


def paint_grass(canvas: Canvas, camera: Camera, light: Light, dice: Dice) -> int:
    """Paint the ground below the horizon; return its segment."""
    segment = canvas.segment('grass')
    patch = canvas.patch((0, camera.horizon, canvas.width, canvas.height))
    distance = patch.y - np.float32(camera.horizon) + np.float32(2)
    far = np.float32(camera.height * 60) / distance
    side = (patch.x - np.float32(canvas.width / 2)) * far / np.float32(60)
    base = np.array(
        dice.colour(
            dice.pick(
                ((0.36, 0.56, 0.22), (0.42, 0.60, 0.26), (0.50, 0.58, 0.24), (0.60, 0.56, 0.30), (0.30, 0.50, 0.26))
            )
        ),
        np.float32,
    )
    blades = sample('grain', patch.x * np.float32(1.0), patch.y * np.float32(0.6))
    clumps = sample('rough', side * 16, far * 16)
    value = (
        np.float32(0.98) + (clumps - np.float32(0.5)) * np.float32(0.42) + (blades - np.float32(0.5)) * np.float32(0.36)
    )
    if dice.chance(0.35):  # a mown lawn
        stripes = wave((side + far * np.float32(dice.between(-0.5, 0.5))) * np.float32(0.35))
        value = value + np.where(stripes > 0, np.float32(0.06), np.float32(-0.06))
    rgb = np.broadcast_to(base * light.tint, (*value.shape, 3)) * value[..., None]
    if dice.chance(0.4):  # flowers
        bloom = np.array(
            dice.pick(((0.95, 0.85, 0.25), (0.95, 0.95, 0.95), (0.85, 0.35, 0.45), (0.65, 0.45, 0.85))), np.float32
        )
        dots = (sample('grain', side * 60 + 77, far * 60) > 0.80) & (clumps > 0.52)
        rgb = np.where(dots[..., None], mix(rgb, bloom * light.tint, 0.8), rgb)
    haze = np.clip(np.float32(10) / (distance + np.float32(10)), 0, 1) * np.float32(0.75)
    canvas.paint(patch, np.ones(value.shape, bool), mix(rgb, light.haze, haze[..., None]), segment)
    return segment


class Road(NamedTuple):
    """A road, to paint and to stand beside."""

    lengthwise: bool
    """Whether it runs away from the viewer; otherwise it crosses the picture."""
    centre: float
    """Lengthwise: lateral position of its middle at the bottom, metres from the picture's middle. Across: row."""
    vanish: float
    """Lengthwise: column where it meets the horizon."""
    bend: float
    """Lengthwise: sideways swing halfway, in samples."""
    half: float
    """Half its width: lengthwise in metres, across in samples."""

    def middle(self, canvas: Canvas, camera: Camera, row: np.ndarray | float) -> np.ndarray | float:
        """Column of the middle of a lengthwise road at a row."""
        depth = canvas.height - camera.horizon
        t = (row - camera.horizon) / depth
        start = canvas.width / 2 + self.centre * depth / camera.height
        return self.vanish + (start - self.vanish) * t + self.bend * 4 * t * (1 - t)

    def covers(self, canvas: Canvas, camera: Camera, column: float, row: float, margin: float) -> bool:
        """Whether a point of the ground is on the road or within a margin in metres of it."""
        scale = camera.scale(row)
        if self.lengthwise:
            return abs(column - float(self.middle(canvas, camera, row))) < (self.half + margin) * scale
        return abs(row - self.centre) < self.half + margin * scale * 0.3


def paint_road(canvas: Canvas, camera: Camera, light: Light, road: Road, dice: Dice) -> int:
    """Paint asphalt with markings, or a dirt track; return its segment."""
    segment = canvas.segment('road')
    patch = canvas.patch((0, camera.horizon + 1, canvas.width, canvas.height))
    distance = patch.y - np.float32(camera.horizon)
    scale = distance / np.float32(camera.height)
    if road.lengthwise:
        across = (patch.x - np.asarray(road.middle(canvas, camera, patch.y), np.float32)) / (
            scale * np.float32(road.half)
        )
        along = np.float32(camera.height * 14) / distance + patch.x * 0
    else:
        across = (patch.y - np.float32(road.centre)) / np.float32(road.half) + patch.x * 0
        along = patch.x / np.float32(camera.scale(road.centre) * 1.0) * np.float32(0.12)
    dirt = dice.chance(0.22)
    base = (
        dice.pick(((0.60, 0.48, 0.34), (0.66, 0.56, 0.42)))
        if dirt
        else dice.pick(((0.34, 0.34, 0.37), (0.44, 0.44, 0.46), (0.28, 0.29, 0.33), (0.54, 0.53, 0.52)))
    )
    grain = sample('grain', patch.x * np.float32(0.9) + 13, patch.y)
    worn = sample('rough', across * 50 + along * 3, along * 90)
    edge = np.float32(1) if not dirt else np.float32(0.92) + (worn - np.float32(0.5)) * np.float32(0.28)
    mask = np.abs(across) <= edge
    value = np.float32(1) + (grain - np.float32(0.5)) * np.float32(0.24) + (worn - np.float32(0.5)) * np.float32(0.24)
    rgb = np.array(dice.colour(base, 0.04), np.float32) * light.tint * value[..., None]
    if dirt:
        ruts = smooth(np.abs(np.abs(across) - np.float32(0.45)), 0.22, 0.05)
        rgb = rgb * (np.float32(1) - ruts * np.float32(0.2))[..., None]
    else:
        paint = (
            np.array(dice.pick(((0.93, 0.93, 0.90), (0.93, 0.93, 0.90), (0.92, 0.78, 0.32))), np.float32) * light.tint
        )
        dashes = (along * np.float32(0.5) - np.floor(along * np.float32(0.5))) < 0.55
        lines = ((np.abs(across) < 0.028) & dashes) | ((np.abs(across) > 0.86) & (np.abs(across) < 0.91))
        rgb = np.where(lines[..., None], mix(rgb, paint, 0.85), rgb)
        kerb = np.abs(across) > 0.955
        rgb = np.where(kerb[..., None], mix(rgb, np.float32(0.72) * light.tint, 0.8), rgb)
    haze = np.clip(np.float32(10) / (distance + np.float32(10)), 0, 1) * np.float32(0.75)
    canvas.paint(patch, mask, mix(rgb, light.haze, haze[..., None]), segment)
    return segment
