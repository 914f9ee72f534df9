"""People, balls and boats. Every function paints around the brush's foot, sizes in metres."""

from scenes.canvas import Brush
from scenes.dice import Dice
from scenes.exact import direction

CLOTHES = (
    (0.78, 0.16, 0.16),
    (0.16, 0.30, 0.68),
    (0.93, 0.92, 0.90),
    (0.14, 0.14, 0.18),
    (0.92, 0.76, 0.18),
    (0.22, 0.52, 0.28),
    (0.88, 0.48, 0.16),
    (0.52, 0.22, 0.52),
    (0.46, 0.48, 0.52),
    (0.90, 0.52, 0.62),
)
SKIN = ((0.94, 0.77, 0.64), (0.82, 0.62, 0.46), (0.60, 0.42, 0.29), (0.38, 0.26, 0.18))
HAIR = ((0.10, 0.08, 0.07), (0.34, 0.21, 0.12), (0.78, 0.62, 0.32), (0.56, 0.24, 0.12), (0.62, 0.61, 0.60))


def person(brush: Brush, dice: Dice) -> None:
    """A person standing, walking or waving; grown up (1.75 m) or a child."""
    size = dice.between(0.62, 0.75) if dice.chance(0.25) else dice.between(0.92, 1.06)
    brush.scale *= size
    shirt, trousers = dice.colour(dice.pick(CLOTHES), 0.05), dice.colour(dice.pick(CLOTHES), 0.05)
    skin, hair = dice.colour(dice.pick(SKIN), 0.03), dice.pick(HAIR)
    stride = dice.between(0.02, 0.26)
    shoe = dice.pick(((0.10, 0.09, 0.10), (0.90, 0.90, 0.90), (0.42, 0.25, 0.15)))
    arms = [dice.pick(('down', 'down', 'swing', 'wave', 'hip')) for _ in range(2)]

    def arm(side: int, pose: str) -> None:
        elbow, hand = {
            'down': ((0.30, 1.12), (0.32, 0.86)),
            'swing': ((0.28, 1.14), (0.50, 0.98)),
            'wave': ((0.46, 1.52), (0.50, 1.88)),
            'hip': ((0.44, 1.16), (0.24, 1.00)),
        }[pose]
        brush.rod(side * 0.20, 1.38, side * elbow[0], elbow[1], 0.16, tuple(c * 0.9 for c in shirt))
        brush.rod(side * elbow[0], elbow[1], side * hand[0], hand[1], 0.13, skin, end=0.12)

    arm(-1, arms[0])
    for side in (-1, 1):
        foot = side * (0.09 + stride)
        brush.rod(
            side * 0.09,
            0.88,
            foot,
            0.08,
            0.23,
            tuple(c * (0.85 if side < 0 else 1.0) for c in trousers),
            end=0.16,
            round_=0.4,
        )
        brush.rod(foot - 0.02, 0.05, foot + 0.12, 0.04, 0.11, shoe)
    if dice.chance(0.25):  # a skirt or a long coat
        brush.polygon(((-0.20, 1.0), (0.20, 1.0), (0.34, 0.42), (-0.34, 0.42)), trousers, round_=0.5)
    brush.polygon(
        ((-0.25, 1.40), (-0.20, 0.82), (0.20, 0.82), (0.25, 1.40), (0.12, 1.47), (-0.12, 1.47)),
        shirt,
        round_=0.6,
        leaves=0.15,
    )
    if dice.chance(0.3):  # stripes
        stripe = dice.pick(CLOTHES)
        for y in (0.98, 1.16, 1.34):
            brush.rect(-0.21, y - 0.03, 0.21, y + 0.03, stripe)
    arm(1, arms[1])
    brush.rod(0, 1.44, 0, 1.52, 0.13, tuple(c * 0.85 for c in skin))
    brush.ellipse(0, 1.66, 0.135, 0.165, hair)
    brush.ellipse(0.03, 1.63, 0.115, 0.14, skin, round_=0.4)
    if dice.chance(0.25):  # a hat
        hat = dice.pick(CLOTHES)
        brush.rect(-0.24, 1.72, 0.24, 1.77, hat)
        brush.polygon(((-0.14, 1.76), (0.14, 1.76), (0.11, 1.90), (-0.11, 1.90)), hat)


def crowd(brush: Brush, dice: Dice) -> None:
    """People far away and close together, painted as one."""
    flip = brush.flip
    foot, scale = brush.foot, brush.scale
    for index in range(dice.count(5, 8)):
        brush.foot, brush.scale = (
            (foot[0] + (index - 3) * scale * dice.between(0.38, 0.5), foot[1] + dice.between(-0.3, 0.1) * scale),
            scale,
        )
        brush.flip = dice.chance(0.5)
        person(brush, dice)
    brush.foot, brush.scale, brush.flip = foot, scale, flip


def ball(brush: Brush, dice: Dice) -> None:
    """A play ball of 0.8 to 1.5 m: beach ball, football, striped or plain (like the sun, or like a round sign)."""
    radius = dice.between(0.42, 0.75)
    white = (0.95, 0.94, 0.92)
    colour = dice.colour(
        dice.pick(((0.93, 0.47, 0.12), (0.86, 0.16, 0.16), (0.16, 0.40, 0.80), (0.95, 0.80, 0.20), (0.30, 0.62, 0.24))),
        0.05,
    )
    kind = dice.pick(('beach', 'football', 'stripe', 'plain'))
    look = {'round_': 1.1, 'grain': 0.05}
    brush.ellipse(0, radius, radius, radius, white if kind == 'football' else colour, **look)
    turn = dice.between(0, 1)
    if kind == 'beach':
        x0, y0 = direction(turn)
        centre = (x0 * radius * 0.3, radius + y0 * radius * 0.3)
        for sector in range(3):
            points = [centre]
            for step in range(5):
                x, y = direction(turn + sector / 3 + step / 24)
                points.append((x * radius * 0.985, radius + y * radius * 0.985))
            brush.polygon(points, white, **look)
        brush.ellipse(*centre, radius * 0.15, radius * 0.15, (0.95, 0.85, 0.30))
    elif kind == 'football':
        black = (0.10, 0.10, 0.12)
        brush.ellipse(0, radius, radius * 0.30, radius * 0.30, black)
        for spot in range(5):
            x, y = direction(turn + spot / 5)
            brush.ellipse(x * radius * 0.72, radius + y * radius * 0.72, radius * 0.2, radius * 0.2, black)
    elif kind == 'stripe':
        x, y = direction(turn)
        reach = radius * 0.80
        brush.rod(-x * reach, radius - y * reach, x * reach, radius + y * reach, radius * 0.38, white)
    else:
        x, y = direction(turn)
        reach = radius * 0.93
        for shift in (-0.3, 0.3):
            dx, dy = -y * radius * shift, x * radius * shift
            brush.rod(
                dx - x * reach * 0.9,
                radius + dy - y * reach * 0.9,
                dx + x * reach * 0.9,
                radius + dy + y * reach * 0.9,
                radius * 0.06,
                (0.12, 0.10, 0.10),
            )
    brush.ellipse(
        0.35 * radius * brush.light.side * (-1 if brush.flip else 1), radius * 1.42, radius * 0.16, radius * 0.12, white
    )


def sailboat(brush: Brush, dice: Dice) -> None:
    """A sailing boat, 5 to 7 m long and 5 to 9 m high."""
    brush.scale *= dice.between(1.0, 1.4)
    hull = dice.colour(
        dice.pick(((0.92, 0.92, 0.90), (0.62, 0.14, 0.14), (0.12, 0.22, 0.42), (0.46, 0.28, 0.15))), 0.04
    )
    sail = dice.colour(
        dice.pick(((0.96, 0.95, 0.92), (0.96, 0.95, 0.92), (0.86, 0.30, 0.22), (0.95, 0.80, 0.40), (0.36, 0.56, 0.78))),
        0.03,
    )
    high = dice.between(4.6, 6.4)
    brush.rod(0.1, 0.5, 0.1, high, 0.14, (0.40, 0.32, 0.26), thinnest=1.6)
    brush.polygon(((0.22, 0.95), (0.22, high - 0.1), (2.0, 1.0)), sail, round_=0.5)
    brush.polygon(((-0.02, 0.95), (-0.02, high * 0.86), (-1.75, 0.95)), tuple(c * 0.94 for c in sail), round_=0.5)
    if dice.chance(0.4):
        stripe = dice.pick(CLOTHES)
        brush.polygon(((0.22, 1.9), (0.22, 2.5), (1.36, 2.1), (1.56, 1.75)), stripe, round_=0.4)
    brush.polygon(((-2.3, 0.78), (-1.7, -0.1), (1.8, -0.1), (2.6, 0.82)), hull, round_=0.6, grain=0.1)
    brush.polygon(((-2.25, 0.70), (-2.15, 0.54), (2.42, 0.58), (2.55, 0.74)), dice.pick(CLOTHES))


def motorboat(brush: Brush, dice: Dice) -> None:
    """A motor boat with a cabin, or a cutter with a mast, 5 to 7 m long."""
    brush.scale *= dice.between(1.0, 1.4)
    hull = dice.colour(
        dice.pick(((0.93, 0.93, 0.92), (0.72, 0.18, 0.14), (0.15, 0.30, 0.55), (0.22, 0.44, 0.34))), 0.04
    )
    cabin = dice.colour((0.92, 0.91, 0.88), 0.05)
    if dice.chance(0.5):
        brush.rod(-0.3, 1.9, -0.3, 3.4, 0.12, (0.3, 0.28, 0.26), thinnest=1.4)
    brush.polygon(((-1.3, 0.9), (-1.2, 2.0), (0.5, 2.0), (1.0, 0.9)), cabin, round_=0.5)
    brush.polygon(((-1.02, 1.40), (-0.98, 1.84), (-0.30, 1.84), (-0.30, 1.40)), (0.16, 0.24, 0.32))
    brush.polygon(((-0.14, 1.40), (-0.14, 1.84), (0.40, 1.84), (0.62, 1.40)), (0.16, 0.24, 0.32))
    brush.polygon(((-2.3, 1.0), (-2.1, -0.1), (1.9, -0.1), (3.0, 1.2), (1.2, 0.95)), hull, round_=0.6, grain=0.1)
    brush.polygon(((-2.2, 0.40), (-2.17, 0.22), (2.2, 0.22), (2.36, 0.42)), dice.pick(CLOTHES))


def rowing_boat(brush: Brush, dice: Dice) -> None:
    """An open boat with an oar, 4 to 5 m long."""
    brush.scale *= dice.between(1.0, 1.4)
    hull = dice.colour(
        dice.pick(((0.56, 0.36, 0.19), (0.80, 0.22, 0.16), (0.90, 0.88, 0.82), (0.20, 0.42, 0.60))), 0.05
    )
    brush.polygon(
        ((-1.9, 0.75), (-1.3, -0.1), (1.3, -0.1), (1.9, 0.80), (1.3, 0.58), (-1.3, 0.54)), hull, round_=0.6, grain=0.25
    )
    brush.polygon(
        ((-1.62, 0.60), (-1.56, 0.48), (1.56, 0.50), (1.66, 0.64), (1.2, 0.56), (-1.2, 0.54)),
        tuple(c * 0.6 for c in hull),
    )
    brush.rod(-0.3, 0.62, -1.2, 1.35, 0.1, (0.62, 0.48, 0.30), thinnest=1.2)


BOATS = (sailboat, sailboat, motorboat, rowing_boat)
