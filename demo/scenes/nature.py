"""Trees, animals and stones. Every function paints around the brush's foot, sizes in metres."""

from itertools import pairwise

from scenes.canvas import Brush
from scenes.dice import Dice
from scenes.exact import direction

LEAVES = ((0.20, 0.42, 0.16), (0.28, 0.50, 0.18), (0.16, 0.36, 0.20), (0.40, 0.52, 0.20))
AUTUMN = ((0.78, 0.36, 0.14), (0.82, 0.58, 0.16), (0.66, 0.20, 0.14), (0.90, 0.66, 0.74))
BARK = (0.34, 0.25, 0.18)


def broadleaf(brush: Brush, dice: Dice) -> None:
    """A tree with a trunk and a crown of overlapping balls of leaves, 3 to 6 m high."""
    height = dice.between(3.2, 6.0)
    crown = height * dice.between(0.30, 0.40)
    trunk = height - crown * 1.5
    colour = dice.colour(dice.pick(AUTUMN if dice.chance(0.25) else LEAVES), 0.05)
    bark = dice.colour(BARK, 0.06)
    brush.rod(0, 0, dice.between(-0.15, 0.15), trunk, 0.42, bark, end=0.26, round_=0.6, grain=0.3)
    brush.rod(0, trunk * 0.7, crown * 0.45, trunk + crown * 0.2, 0.18, bark, end=0.1)
    spread = dice.between(0.85, 1.2)
    balls = []
    for _ in range(dice.count(7, 10)):
        x, y = direction(dice.between(0, 1))
        away = dice.between(0.2, 0.68)
        balls.append(
            (x * away * crown * spread, trunk + crown * 0.6 + y * away * crown, crown * dice.between(0.42, 0.62))
        )
    for x, y, radius in sorted(balls, key=lambda ball: ball[1]):  # the upper, brighter ones in front
        shade = 0.72 + 0.34 * (y - trunk) / (crown * 1.6)
        brush.ellipse(
            x,
            y,
            radius,
            radius * 0.92,
            tuple(c * shade for c in colour),
            ragged=0.16,
            round_=0.55,
            leaves=0.75,
            grain=0.25,
        )


def conifer(brush: Brush, dice: Dice) -> None:
    """A fir of stacked triangles, 3.5 to 7 m high."""
    height = dice.between(3.5, 7.0)
    half = height * dice.between(0.19, 0.27)
    colour = dice.colour(dice.pick(((0.12, 0.30, 0.20), (0.16, 0.36, 0.20), (0.20, 0.36, 0.30))), 0.04)
    brush.rod(0, 0, 0, height * 0.3, 0.34, dice.colour(BARK, 0.05), round_=0.6)
    tiers = dice.count(3, 5)
    for tier in range(tiers):
        low, share = 0.14 + 0.80 * tier / tiers, 1 - 0.78 * tier / tiers
        top = min(low + 1.5 / tiers, 1.0) * height
        wide, y = half * share, low * height
        shade = 0.8 + 0.35 * tier / tiers
        points = [
            (-wide, y),
            (-wide * 0.5, y + 0.04 * height),
            (0, y - 0.01 * height),
            (wide * 0.5, y + 0.04 * height),
            (wide, y),
            (0, top),
        ]
        brush.polygon(points, tuple(c * shade for c in colour), round_=0.7, leaves=0.5, grain=0.35)


def poplar(brush: Brush, dice: Dice) -> None:
    """A slender tree, its crown one tall ellipse."""
    height = dice.between(4.5, 7.5)
    colour = dice.colour(dice.pick(LEAVES if dice.chance(0.75) else AUTUMN), 0.05)
    brush.rod(0, 0, 0, height * 0.3, 0.3, dice.colour(BARK, 0.05), round_=0.6)
    for y, share in ((0.42, 1.0), (0.58, 0.95), (0.76, 0.66)):
        brush.ellipse(
            0,
            height * y,
            height * 0.12 * share,
            height * 0.25 * share,
            tuple(c * (0.6 + 0.5 * y) for c in colour),
            ragged=0.14,
            round_=0.7,
            leaves=0.7,
            grain=0.25,
        )


def palm(brush: Brush, dice: Dice) -> None:
    """A palm with a curved trunk and drooping fronds."""
    height, lean = dice.between(3.8, 6.0), dice.between(-0.9, 0.9)
    bark = dice.colour((0.48, 0.38, 0.26), 0.05)
    joints = [(lean * t * t, height * t) for t in (0, 0.25, 0.5, 0.75, 1.0)]
    for (x0, y0), (x1, y1) in pairwise(joints):
        brush.rod(x0, y0, x1, y1, 0.34, bark, round_=0.5, grain=0.4)
    colour = dice.colour(dice.pick(LEAVES), 0.04)
    fronds = dice.count(7, 9)
    for frond in range(fronds):
        x, y = direction(-0.08 + 0.66 * (frond + dice.between(0.2, 0.8)) / fronds)
        reach = dice.between(1.4, 2.0)
        middle = (lean + x * reach * 0.55, height + y * reach * 0.5 + 0.25)
        tip = (lean + x * reach, height + y * reach * 0.6 - 0.45)
        tone = tuple(c * dice.between(0.75, 1.2) for c in colour)
        brush.rod(lean, height, *middle, 0.30, tone, end=0.40, grain=0.3)
        brush.rod(*middle, *tip, 0.40, tone, end=0.08, grain=0.3)
    for x in (-0.16, 0.12):
        brush.ellipse(lean + x, height - 0.18, 0.15, 0.15, (0.36, 0.26, 0.14), round_=0.6)


TREES = (broadleaf, broadleaf, conifer, poplar)


def _legs(brush: Brush, dice: Dice, hips: tuple[float, float], length: float, width: float, colour: tuple) -> None:
    """Four legs under two hips, the far pair darker."""
    stride = dice.between(0.05, 0.3) * length
    for far in (True, False):
        tone = tuple(c * (0.7 if far else 0.95) for c in colour)
        for hip in hips:
            step = stride * (1 if far else -1) * (1 if hip > 0 else -1)
            brush.rod(hip, length * 1.1, hip + step * 0.4, length * 0.5, width * 1.25, tone, end=width)
            brush.rod(hip + step * 0.4, length * 0.5, hip + step, width * 0.4, width, tone, end=width * 0.85)


def dog(brush: Brush, dice: Dice) -> None:
    """A dog, enlarged to 1 m so that it can be seen."""
    colour = dice.colour(
        dice.pick(((0.46, 0.30, 0.17), (0.20, 0.17, 0.16), (0.78, 0.64, 0.42), (0.86, 0.83, 0.78))), 0.05
    )
    _legs(brush, dice, (-0.42, 0.40), 0.45, 0.15, colour)
    brush.rod(-0.58, 0.72, -0.95, dice.between(0.75, 1.25), 0.13, colour, end=0.06)
    brush.rod(-0.42, 0.66, 0.42, 0.70, 0.42, colour, end=0.46, round_=0.6, leaves=0.25)
    brush.rod(0.42, 0.78, 0.66, 1.08, 0.28, colour, round_=0.4)
    brush.ellipse(0.70, 1.14, 0.22, 0.19, colour, round_=0.5)
    brush.rod(0.76, 1.10, 1.00, 1.05, 0.17, tuple(c * 0.92 for c in colour), end=0.12)
    brush.polygon(((0.56, 1.30), (0.52, 1.02), (0.66, 1.08)), tuple(c * 0.65 for c in colour))
    brush.ellipse(1.04, 1.07, 0.06, 0.05, (0.06, 0.05, 0.05))
    brush.ellipse(0.77, 1.18, 0.035, 0.035, (0.05, 0.04, 0.04))


def sheep(brush: Brush, dice: Dice) -> None:
    """A sheep: a cloud of wool on thin legs, grazing or looking up."""
    wool = dice.colour(dice.pick(((0.90, 0.87, 0.80), (0.84, 0.80, 0.72), (0.32, 0.27, 0.24))), 0.04)
    face = dice.pick(((0.18, 0.15, 0.14), (0.66, 0.56, 0.48)))
    _legs(brush, dice, (-0.40, 0.36), 0.46, 0.13, face)
    for x, y, radius in (
        (-0.42, 0.80, 0.32),
        (0.36, 0.82, 0.32),
        (-0.05, 0.72, 0.36),
        (-0.20, 0.98, 0.30),
        (0.18, 0.98, 0.30),
        (0.0, 0.86, 0.40),
    ):
        brush.ellipse(x, y, radius, radius * 0.9, wool, ragged=0.10, round_=0.5, leaves=0.3)
    head = (0.86, 0.44) if dice.chance(0.5) else (0.80, 1.08)
    brush.rod(0.50, 0.90, head[0] - 0.05, head[1] + 0.08, 0.34, wool, end=0.28, leaves=0.3)
    brush.rod(*head, head[0] + 0.16, head[1] - 0.14, 0.26, face, end=0.18, round_=0.4)
    brush.rod(head[0] - 0.10, head[1] + 0.10, head[0] - 0.22, head[1] + 0.04, 0.09, face)


def cow(brush: Brush, dice: Dice) -> None:
    """A cow with patches, horns and a tail."""
    colour = dice.colour(dice.pick(((0.88, 0.86, 0.82), (0.52, 0.30, 0.17), (0.24, 0.20, 0.19))), 0.04)
    patch = dice.pick(((0.14, 0.12, 0.12), (0.45, 0.25, 0.13), (0.88, 0.85, 0.80)))
    _legs(brush, dice, (-0.72, 0.66), 0.70, 0.20, colour)
    brush.polygon(
        ((-0.95, 1.40), (-0.98, 0.85), (-0.70, 0.62), (0.70, 0.66), (0.98, 0.95), (0.95, 1.42), (0.2, 1.46)),
        colour,
        round_=0.6,
        leaves=0.2,
    )
    brush.ellipse(0.02, 1.36, 0.9, 0.12, colour, round_=0.3)
    for _ in range(dice.count(2, 4)):
        brush.ellipse(
            dice.between(-0.70, 0.62),
            dice.between(0.92, 1.25),
            dice.between(0.14, 0.27),
            dice.between(0.10, 0.17),
            patch,
            ragged=0.2,
            leaves=0.2,
        )
    brush.rod(-0.96, 1.34, -1.10, 0.70, 0.07, colour, end=0.11)
    head = (1.42, 0.62) if dice.chance(0.5) else (1.36, 1.52)
    brush.rod(0.80, 1.24, head[0] - 0.08, head[1] + 0.06, 0.50, colour, end=0.32, round_=0.4)
    brush.rod(*head, head[0] + 0.26, head[1] - 0.20, 0.32, colour, end=0.24, round_=0.3)
    brush.ellipse(head[0] + 0.30, head[1] - 0.23, 0.13, 0.10, (0.82, 0.62, 0.58))
    brush.rod(head[0] - 0.10, head[1] + 0.10, head[0] - 0.02, head[1] + 0.34, 0.08, (0.90, 0.86, 0.76), end=0.04)
    brush.rod(head[0] - 0.12, head[1] + 0.04, head[0] - 0.32, head[1] + 0.04, 0.10, tuple(c * 0.8 for c in colour))


def horse(brush: Brush, dice: Dice) -> None:
    """A horse with mane and tail."""
    colour = dice.colour(
        dice.pick(((0.42, 0.24, 0.13), (0.58, 0.38, 0.20), (0.18, 0.14, 0.13), (0.82, 0.80, 0.78))), 0.04
    )
    mane = dice.pick(((0.10, 0.08, 0.07), (0.80, 0.70, 0.50)))
    _legs(brush, dice, (-0.66, 0.62), 0.92, 0.17, colour)
    brush.rod(-0.84, 1.40, -1.08, 0.66, 0.14, mane, end=0.26, leaves=0.4)
    brush.rod(-0.58, 1.26, 0.56, 1.26, 0.60, colour, end=0.58, round_=0.6, leaves=0.12)
    grazing = dice.chance(0.4)
    poll = (1.22, 0.72) if grazing else (1.12, 2.02)
    brush.rod(0.62, 1.36, *poll, 0.50, colour, end=0.28, round_=0.4)
    brush.rod(0.50, 1.56, poll[0] - 0.14, poll[1] + 0.06, 0.15, mane, leaves=0.4)
    muzzle = (poll[0] + 0.24, poll[1] - 0.48) if grazing else (poll[0] + 0.42, poll[1] - 0.34)
    brush.rod(*poll, *muzzle, 0.30, colour, end=0.19, round_=0.4)
    brush.polygon(
        ((poll[0] - 0.10, poll[1] + 0.10), (poll[0] - 0.02, poll[1] + 0.32), (poll[0] + 0.08, poll[1] + 0.10)), colour
    )


ANIMALS = {'dog': dog, 'sheep': sheep, 'cow': cow, 'horse': horse}


def rock(brush: Brush, dice: Dice) -> None:
    """A boulder: grey like a road, but no class of its own."""
    colour = dice.colour(dice.pick(((0.46, 0.45, 0.44), (0.54, 0.50, 0.44), (0.38, 0.38, 0.40))), 0.06)
    wide, high = dice.between(0.5, 1.1), dice.between(0.4, 0.9)
    points = [
        (-wide, 0.0),
        (-wide * 0.8, high * 0.6),
        (-wide * 0.25, high),
        (wide * 0.35, high * 0.9),
        (wide * 0.9, high * 0.5),
        (wide, 0.0),
        (0.0, -high * 0.1),
    ]
    brush.polygon(points, colour, round_=0.8, leaves=0.6, grain=0.4)
