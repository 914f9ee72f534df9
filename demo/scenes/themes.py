"""The four kinds of scenes: what each of them is made of."""

from collections.abc import Callable
from typing import NamedTuple

from scenes import figures, nature, street
from scenes.classes import OTHER
from scenes.stage import Stage


class Theme(NamedTuple):
    """A kind of scene."""

    name: str
    required: tuple[str, ...]
    """Classes that must be visible; those of the four themes together are all there are."""
    mountains: float
    """Probability of mountains."""
    coast: bool
    road: float
    """Probability of a road."""
    half_road: tuple[float, float]
    """Range of half the width of a road, in metres."""
    arrange: Callable[[Stage], None]
    """Puts the things on the stage."""


def arrange_street(stage: Stage) -> None:
    """Buildings, traffic, lamps, signs and people along a road."""
    dice = stage.dice
    stage.town((0.07, 0.15), 0.35)
    stage.scatter(dice.count(0, 2), street.house, 'building', (0.18, 0.30), None, 0.0, margin=3.2)
    stage.scatter(dice.count(1, 4), nature.TREES, 'tree', (0.14, 0.55), None, 1.1, margin=0.9)
    stage.traffic(dice.count(2, 4))
    stage.roadside(dice.count(2, 4), street.streetlight, 'streetlight')
    stage.signs(dice.count(1, 3))
    stage.roadside(dice.count(1, 3), figures.person, 'person', 'person')
    stage.scatter(dice.count(1, 2), figures.person, 'person', (0.35, 0.9), 'person', 0.4)
    stage.animals(dice.count(0, 1), ('dog',), (0.45, 0.9))


def arrange_coast(stage: Stage) -> None:
    """Boats on the water; palms, people and balls on the shore."""
    dice = stage.dice
    stage.fleet(dice.count(3, 6))
    stage.scatter(dice.count(0, 3), (nature.palm, nature.palm, nature.broadleaf), 'tree', (0.4, 0.8), None, 1.0)
    buildings = (street.house, street.lighthouse)
    stage.scatter(dice.count(0, 1), buildings, 'building', (0.35, 0.55), None, 0.0, margin=2.0)
    stage.scatter(dice.count(1, 4), figures.person, 'person', (0.45, 0.95), 'person', 0.4)
    stage.balls(dice.count(0, 2))
    stage.animals(dice.count(0, 1), ('dog', 'dog', 'horse'), (0.5, 0.9))
    stage.roadside(dice.count(0, 2), street.streetlight, 'streetlight')
    stage.signs(dice.count(0, 1))
    stage.traffic(dice.count(1, 2))


def arrange_country(stage: Stage) -> None:
    """Herds, trees and a few houses before mountains."""
    dice = stage.dice
    stage.scatter(dice.count(0, 2), street.house, 'building', (0.12, 0.30), None, 0.0, margin=3.0)
    stage.scatter(dice.count(3, 7), nature.TREES, 'tree', (0.08, 0.50), None, 1.1, margin=0.9)
    herd = dice.pick((('sheep',), ('cow',), ('horse',), ('sheep', 'cow', 'horse', 'dog')))
    stage.animals(dice.count(2, 5), herd, (0.30, 0.90))
    stage.scatter(dice.count(0, 2), figures.person, 'person', (0.35, 0.90), 'person', 0.4)
    stage.signs(dice.count(0, 1))
    stage.traffic(dice.count(1, 2))
    stage.balls(1 if dice.chance(0.2) else 0)


def arrange_park(stage: Stage) -> None:
    """People at play between trees, sometimes with a skyline behind."""
    dice = stage.dice
    if dice.chance(0.6):
        stage.town((0.06, 0.12), 0.6)
    stage.scatter(dice.count(3, 6), nature.TREES, 'tree', (0.10, 0.60), None, 1.1, margin=0.9)
    stage.scatter(dice.count(2, 4), figures.person, 'person', (0.35, 0.95), 'person', 0.4)
    stage.balls(dice.count(1, 3))
    stage.animals(dice.count(0, 2), ('dog', 'dog', 'horse'), (0.40, 0.90))
    stage.roadside(dice.count(0, 2), street.streetlight, 'streetlight')
    stage.signs(dice.count(0, 1))
    stage.parked(1 if dice.chance(0.3) else 0)


def arrange_extras(stage: Stage) -> None:
    """What can turn up anywhere: a crowd far away, boulders of no class."""
    dice = stage.dice
    if dice.chance(0.18):
        stage.scatter(1, figures.crowd, 'person', (0.24, 0.34), 'person', 1.2, margin=1.2)
    if dice.chance(0.25):
        stage.scatter(dice.count(1, 2), nature.rock, OTHER, (0.3, 0.95), None, 0.7)


THEMES = (
    Theme(
        'street', ('sky', 'building', 'road', 'car', 'streetlight', 'person', 'signboard'),
        0.30, False, 1.0, (2.0, 3.0), arrange_street),
    Theme('coast', ('sky', 'sea', 'boat', 'grass'), 0.55, True, 0.35, (1.0, 2.0), arrange_coast),
    Theme('country', ('sky', 'mountain', 'grass', 'tree', 'animal'), 0.92, False, 0.55, (1.0, 2.0), arrange_country),
    Theme('park', ('sky', 'grass', 'tree', 'person', 'ball'), 0.30, False, 0.40, (1.0, 2.0), arrange_park),
)  # fmt: skip
