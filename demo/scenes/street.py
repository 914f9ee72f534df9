"""Buildings, cars, streetlights and signboards. Every function paints around the brush's foot, sizes in metres."""

from scenes.canvas import Brush
from scenes.dice import Dice
from scenes.exact import direction

WALLS = (
    (0.72, 0.34, 0.26),
    (0.84, 0.76, 0.62),
    (0.90, 0.88, 0.84),
    (0.60, 0.60, 0.62),
    (0.44, 0.56, 0.66),
    (0.86, 0.66, 0.42),
    (0.52, 0.60, 0.44),
    (0.76, 0.56, 0.58),
)
ROOFS = ((0.52, 0.22, 0.17), (0.32, 0.30, 0.32), (0.44, 0.32, 0.26), (0.24, 0.32, 0.34))
PAINTS = (
    (0.78, 0.13, 0.12),
    (0.13, 0.28, 0.62),
    (0.92, 0.92, 0.92),
    (0.10, 0.10, 0.12),
    (0.58, 0.60, 0.63),
    (0.90, 0.70, 0.14),
    (0.20, 0.42, 0.28),
    (0.40, 0.62, 0.76),
    (0.86, 0.40, 0.14),
)
GLASS = (0.20, 0.28, 0.36)


def _windows(brush: Brush, dice: Dice, left: float, right: float, low: float, high: float, lean: float = 0.0) -> None:
    """A grid of windows on a wall; ``lean`` is the rise of the wall's top and bottom edges per metre."""
    across = max(int((right - left) / dice.between(1.4, 1.9)), 1)
    floors = max(int((high - low) / dice.between(1.7, 2.2)), 1)
    lit = dice.pick(((0.98, 0.86, 0.52), GLASS, (0.55, 0.68, 0.78))) if dice.chance(0.6) else GLASS
    frame = dice.pick(((0.92, 0.91, 0.88), (0.30, 0.26, 0.24)))
    share = dice.between(0.42, 0.62)
    step_x, step_y = (right - left) / across, (high - low) / floors
    for row in range(floors):
        for column in range(across):
            x, y = left + (column + 0.5) * step_x, low + (row + 0.5) * step_y
            half_x, half_y = step_x * share / 2, step_y * min(share + 0.1, 0.68) / 2
            glass = lit if dice.chance(0.3) else GLASS
            rise = lean * (x - left)
            points = [
                (x - half_x, y - half_y + rise),
                (x + half_x, y - half_y + rise),
                (x + half_x, y + half_y + rise),
                (x - half_x, y + half_y + rise),
            ]
            if brush.scale * half_x > 2.5:
                outer = [(x + (px - x) * 1.28, y + rise + (py - y - rise) * 1.18) for px, py in points]
                brush.polygon(outer, frame)
            brush.polygon(points, glass, round_=0.6)


def house(brush: Brush, dice: Dice) -> None:
    """A house with a gable and a side wall that recedes, 5 to 8 m wide."""
    wide, deep, wall = dice.between(3.4, 4.6), dice.between(1.6, 3.4), dice.between(2.6, 5.0)
    gable = dice.between(1.2, 2.2)
    colour, roof = dice.colour(dice.pick(WALLS), 0.05), dice.colour(dice.pick(ROOFS), 0.05)
    left = -(wide + deep) / 2
    front, back = left + wide, left + wide + deep
    dark = tuple(c * 0.78 for c in colour)
    lean = 0.10
    if dice.chance(0.6):
        x = front + deep * 0.45
        brush.rect(x, wall + gable * 0.5, x + 0.5, wall + gable + 0.7, (0.50, 0.30, 0.25), grain=0.4)
    brush.polygon(((front, 0), (back, deep * lean), (back, wall - deep * lean * 0.3), (front, wall)), dark, grain=0.25)
    brush.polygon(
        ((left, 0), (front, 0), (front, wall), (left + wide / 2, wall + gable), (left, wall)),
        colour,
        grain=0.25,
        round_=0.2,
    )
    ridge = (left + wide / 2, wall + gable)
    far_ridge = (left + wide / 2 + deep * 0.9, wall + gable - 0.12)
    brush.polygon(
        (ridge, far_ridge, (back + 0.25, wall - deep * lean * 0.3 - 0.15), (front + 0.2, wall - 0.2)),
        roof,
        grain=0.5,
        leaves=0.3,
    )
    brush.rod(left - 0.25, wall - 0.25, *ridge, 0.26, tuple(c * 0.85 for c in roof), thinnest=2)
    brush.rod(*ridge, front + 0.2, wall - 0.2, 0.26, tuple(c * 0.85 for c in roof), thinnest=2)
    _windows(brush, dice, left + 0.2, front - 0.2, wall * 0.48, wall)
    if deep > 2.0:
        _windows(brush, dice, front + 0.2, back - 0.2, wall * 0.30, wall * 0.90, lean=0.04)
    door = left + wide * dice.between(0.3, 0.6)
    brush.rect(door - 0.42, 0, door + 0.42, min(1.9, wall * 0.45), dice.colour(dice.pick(PAINTS)), round_=0.4)


def block(brush: Brush, dice: Dice) -> None:
    """A block of flats or offices, 7 to 20 m high, with one receding side."""
    wide, deep, high = dice.between(4.5, 8.0), dice.between(1.2, 3.0), dice.between(7.0, 20.0)
    colour = dice.colour(dice.pick(WALLS), 0.06)
    left = -(wide + deep) / 2
    front, back = left + wide, left + wide + deep
    dark = tuple(c * 0.72 for c in colour)
    brush.polygon(((front, 0), (back, deep * 0.1), (back, high - deep * 0.25), (front, high)), dark, grain=0.2)
    brush.rect(left, 0, front, high, colour, grain=0.2, round_=0.2)
    if dice.chance(0.35):  # glass front in bands
        band = dice.between(1.5, 2.2)
        for floor in range(int((high - 1) / band)):
            y = 1.4 + floor * band
            brush.rect(left + 0.25, y, front - 0.25, y + band * 0.55, (0.30, 0.44, 0.54), round_=0.5)
    else:
        _windows(brush, dice, left + 0.3, front - 0.3, 2.2, high - 0.3)
    _windows(brush, dice, front + 0.15, back - 0.15, 2.2, high - 0.6, lean=0.0)
    trim = tuple(c * 0.62 for c in colour)
    brush.rect(left - 0.12, high - 0.1, front + 0.06, high + 0.35, trim)
    if dice.chance(0.6):  # shop front
        brush.rect(left + 0.2, 0.2, front - 0.2, 1.7, GLASS, round_=0.5)
        brush.rect(left + 0.1, 1.7, front - 0.1, 2.1, dice.pick(PAINTS))


def lighthouse(brush: Brush, dice: Dice) -> None:
    """A lighthouse with bands, 9 m high."""
    band = dice.pick(((0.78, 0.16, 0.14), (0.14, 0.24, 0.46)))
    for index in range(5):
        y0, y1 = index * 1.4, (index + 1) * 1.4
        w0, w1 = 1.25 - 0.09 * index, 1.25 - 0.09 * (index + 1)
        brush.polygon(((-w0, y0), (w0, y0), (w1, y1), (-w1, y1)), band if index % 2 else (0.94, 0.93, 0.90), round_=0.9)
    brush.rect(-1.0, 7.0, 1.0, 7.25, (0.20, 0.20, 0.22))
    brush.rect(-0.55, 7.25, 0.55, 8.3, (0.95, 0.90, 0.62), round_=0.5)
    brush.polygon(((-0.75, 8.3), (0.75, 8.3), (0, 9.1)), band)


def _wheel(brush: Brush, x: float, radius: float) -> None:
    brush.ellipse(x, radius, radius, radius, (0.08, 0.08, 0.09), grain=0.2)
    brush.ellipse(x, radius, radius * 0.55, radius * 0.55, (0.66, 0.67, 0.69), round_=0.6)
    brush.ellipse(x, radius, radius * 0.18, radius * 0.18, (0.25, 0.25, 0.27))


def car_side(brush: Brush, dice: Dice) -> None:
    """A saloon, hatchback, van or pickup from the side, 4.3 m long."""
    paint = dice.colour(dice.pick(PAINTS), 0.04)
    kind = dice.pick(('saloon', 'saloon', 'hatch', 'van', 'pickup'))
    low = 0.30
    roof = {
        'saloon': ((-1.35, 0.92), (-0.85, 1.46), (0.45, 1.46), (1.05, 0.92)),
        'hatch': ((-1.95, 0.92), (-1.62, 1.52), (0.35, 1.52), (1.0, 0.92)),
        'van': ((-2.05, 0.92), (-2.02, 1.95), (0.95, 1.95), (1.55, 0.95)),
        'pickup': ((-0.55, 0.92), (-0.48, 1.62), (0.55, 1.62), (1.05, 0.92)),
    }[kind]
    brush.polygon(
        ((-2.12, low), (-2.16, 0.78), (-2.0, 0.96), (1.2, 0.98), (2.0, 0.84), (2.18, 0.62), (2.16, low)),
        paint,
        round_=0.8,
    )
    brush.polygon(roof, paint, round_=0.5)
    (a, b), (c, d), (e, f), (g, h) = roof
    inset = 0.12
    middle = (c + e) / 2 + 0.1
    if kind == 'van':
        brush.polygon(((0.1, 1.05), (0.1, d - 0.22), (e - inset, f - 0.22), (g - 0.22, 1.08)), GLASS, round_=0.6)
        brush.rect(a + 0.25, 1.2, -0.2, 1.5, dice.pick(PAINTS))
    else:
        brush.polygon(
            ((a + 0.22, b + 0.04), (c + inset, d - inset), (middle - 0.05, d - inset), (middle - 0.05, b + 0.04)),
            GLASS,
            round_=0.6,
        )
        brush.polygon(
            ((middle + 0.05, b + 0.04), (middle + 0.05, f - inset), (e - inset * 0.4, f - inset), (g - 0.2, h + 0.04)),
            GLASS,
            round_=0.6,
        )
    brush.rect(-2.16, low, 2.16, low + 0.14, tuple(x * 0.55 for x in paint))
    brush.rod(middle, 0.40, middle, 0.92, 0.04, tuple(x * 0.6 for x in paint))
    brush.ellipse(2.06, 0.70, 0.12, 0.09, (0.98, 0.95, 0.78))
    brush.rect(-2.17, 0.62, -2.02, 0.80, (0.78, 0.10, 0.08))
    for x in (-1.32, 1.34):
        brush.ellipse(x, 0.36, 0.46, 0.46, (0.05, 0.05, 0.06))
        _wheel(brush, x, 0.37)


def car_end(brush: Brush, dice: Dice) -> None:
    """A car from the front or from behind, 1.8 m wide."""
    paint = dice.colour(dice.pick(PAINTS), 0.04)
    front = dice.chance(0.5)
    tall = dice.pick((1.48, 1.55, 1.95))
    for x in (-0.72, 0.72):
        brush.rod(x, 0.18, x, 0.36, 0.26, (0.07, 0.07, 0.08))
    brush.polygon(((-0.72, 0.98), (-0.58, tall), (0.58, tall), (0.72, 0.98)), paint, round_=0.4)
    brush.polygon(((-0.62, 1.00), (-0.50, tall - 0.12), (0.50, tall - 0.12), (0.62, 1.00)), GLASS, round_=0.8)
    brush.polygon(
        (
            (-0.90, 0.30),
            (-0.92, 0.78),
            (-0.78, 1.02),
            (0.78, 1.02),
            (0.92, 0.78),
            (0.90, 0.30),
            (0.8, 0.24),
            (-0.8, 0.24),
        ),
        paint,
        round_=0.7,
    )
    lamp = (0.98, 0.96, 0.84) if front else (0.86, 0.10, 0.08)
    for x in (-0.68, 0.68):
        brush.ellipse(x, 0.74, 0.17, 0.11, lamp)
    brush.rect(-0.38, 0.44, 0.38, 0.64 if front else 0.58, (0.12, 0.12, 0.13) if front else (0.93, 0.92, 0.86))
    brush.rect(-0.88, 0.26, 0.88, 0.36, tuple(c * 0.5 for c in paint))


def streetlight(brush: Brush, dice: Dice) -> None:
    """A streetlight of 4.5 to 6 m: one arm, two arms, or a lantern on a post."""
    metal = dice.colour(
        dice.pick(((0.20, 0.22, 0.24), (0.42, 0.44, 0.46), (0.16, 0.26, 0.22), (0.66, 0.67, 0.68))), 0.03
    )
    glow = (0.99, 0.93, 0.70) if dice.chance(0.5) else (0.86, 0.88, 0.88)
    kind = dice.pick(('arm', 'arm', 'two', 'lantern'))
    high = dice.between(3.2, 4.0) if kind == 'lantern' else dice.between(4.4, 5.8)
    look = {'thinnest': 6.0, 'round_': 0.6}
    brush.rod(0, 0.1, 0, 0.9, 0.48, metal, **look)
    brush.rod(0, 0, 0, high, 0.32, metal, end=0.24, **look)
    if kind == 'lantern':
        brush.polygon(((-0.22, high), (0.22, high), (0.38, high + 0.72), (-0.38, high + 0.72)), glow, round_=0.3)
        brush.polygon(((-0.48, high + 0.68), (0.48, high + 0.68), (0.12, high + 1.0), (-0.12, high + 1.0)), metal)
        brush.rect(-0.26, high - 0.08, 0.26, high + 0.06, metal)
        return
    for side in (1,) if kind == 'arm' else (-1, 1):
        brush.rod(0, high, side * 0.55, high + 0.34, 0.24, metal, **look)
        brush.rod(side * 0.55, high + 0.34, side * 1.35, high + 0.36, 0.20, metal, **look)
        brush.polygon(
            (
                (side * 0.85, high + 0.50),
                (side * 1.75, high + 0.42),
                (side * 1.70, high + 0.20),
                (side * 0.85, high + 0.20),
            ),
            metal,
        )
        brush.polygon(
            (
                (side * 0.95, high + 0.22),
                (side * 1.66, high + 0.22),
                (side * 1.52, high + 0.06),
                (side * 1.05, high + 0.06),
            ),
            glow,
        )


def stop_sign(brush: Brush, dice: Dice) -> None:
    """A red octagon on a post."""
    high = dice.between(1.9, 2.4)
    brush.rod(0, 0, 0, high, 0.13, (0.55, 0.56, 0.57), thinnest=3)
    outer = [direction(0.0625 + side / 8) for side in range(8)]
    for size, colour in ((0.66, (0.94, 0.93, 0.92)), (0.58, dice.colour((0.78, 0.10, 0.11), 0.03))):
        brush.polygon([(x * size, high + 0.3 + y * size) for x, y in outer], colour, round_=0.2)
    for x in (-0.33, -0.11, 0.11, 0.33):
        brush.rect(x - 0.06, high + 0.14, x + 0.06, high + 0.46, (0.95, 0.94, 0.93))


def road_sign(brush: Brush, dice: Dice) -> None:
    """A triangle, disc or arrow board on a post."""
    high = dice.between(1.8, 2.3)
    white, red, blue = (0.94, 0.94, 0.92), (0.80, 0.12, 0.12), (0.12, 0.32, 0.66)
    brush.rod(0, 0, 0, high, 0.13, (0.58, 0.59, 0.60), thinnest=3)
    kind = dice.pick(('triangle', 'disc', 'arrow'))
    y = high + 0.3
    if kind == 'triangle':
        brush.polygon(((-0.74, y - 0.45), (0.74, y - 0.45), (0, y + 0.78)), red)
        brush.polygon(((-0.46, y - 0.28), (0.46, y - 0.28), (0, y + 0.46)), dice.pick((white, (0.95, 0.80, 0.20))))
        brush.rod(0, y - 0.12, 0, y + 0.18, 0.10, (0.1, 0.1, 0.1))
    elif kind == 'disc':
        brush.ellipse(0, y, 0.60, 0.60, dice.pick((red, blue)))
        brush.ellipse(0, y, 0.42, 0.42, dice.pick((white, blue, (0.95, 0.80, 0.20))))
        brush.rod(-0.2, y, 0.2, y, 0.12, (0.1, 0.1, 0.12))
    else:
        board = dice.pick((blue, (0.10, 0.42, 0.24), white))
        brush.polygon(
            ((-0.95, y - 0.32), (0.75, y - 0.32), (1.1, y), (0.75, y + 0.32), (-0.95, y + 0.32)), board, round_=0.2
        )
        ink = (0.10, 0.10, 0.12) if board == white else white
        brush.rect(-0.75, y - 0.07, 0.50, y + 0.07, ink)


def billboard(brush: Brush, dice: Dice) -> None:
    """A large advertisement on two posts."""
    wide, high, low = dice.between(1.5, 2.1), dice.between(1.5, 2.0), dice.between(1.1, 1.6)
    for x in (-wide * 0.6, wide * 0.6):
        brush.rod(x, 0, x, low + 0.2, 0.16, (0.36, 0.34, 0.32), thinnest=2.4)
    brush.rect(-wide, low, wide, low + high, (0.30, 0.28, 0.27))
    paper = dice.colour(
        dice.pick(((0.95, 0.93, 0.88), (0.92, 0.76, 0.20), (0.20, 0.48, 0.74), (0.84, 0.30, 0.26), (0.30, 0.58, 0.40))),
        0.04,
    )
    brush.rect(-wide + 0.12, low + 0.12, wide - 0.12, low + high - 0.12, paper, round_=0.15)
    ink = (0.12, 0.12, 0.16) if sum(paper) > 1.7 else (0.95, 0.94, 0.92)
    for line in range(3):
        y = low + high * (0.72 - 0.2 * line)
        brush.rect(-wide * 0.72, y - high * 0.05, wide * dice.between(-0.1, 0.25), y + high * 0.05, ink)
    brush.ellipse(wide * 0.52, low + high * 0.5, high * 0.24, high * 0.24, dice.pick(PAINTS), round_=0.4)


SIGNS = {'stop sign': stop_sign, 'road sign': road_sign, 'billboard': billboard}
