"""Which of a test's parameters' combinations an ordinary run takes: as few as have every two values together.

A test of five parameters is run hundreds of times if every combination is. Faults that take three values at once are
rare beside those that take one or two, and such a test marked ``covering(2)`` still meets every pair of values, and one
marked ``covering(1)`` every value. The others are marked ``full``: ``make test-all`` runs them.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def cover(rows: Sequence[Mapping[str, Any]], strength: int) -> list[int]:
    """Choose rows, greedily, that have each combination of ``strength`` values that any row has.

    Args:
        rows: What tells each parameter's value from its others, by the parameter's name.
        strength: How many values; 1 for every value by itself.

    Returns:
        The chosen rows' places, in order. Equal rows give equal choices.

    Example:
        >>> rows = [{'a': a, 'b': b, 'c': c} for a in range(2) for b in range(2) for c in range(2)]
        >>> [tuple(rows[i].values()) for i in cover(rows, 2)]
        [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]
        >>> cover(rows, 1)
        [0, 7]
    """
    held = [set(combinations(sorted(row.items()), min(strength, len(row)))) for row in rows]
    missing = set().union(*held)
    chosen = []
    while missing:
        best = max(range(len(rows)), key=lambda i: (len(held[i] & missing), -i))
        chosen.append(best)
        missing -= held[best]
    return sorted(chosen)


def _row(item: Any) -> dict[str, Any]:
    """A test's values, those that come from one ``parametrize`` as one; a value is known by its identity."""
    params = dict(item.callspec.params)
    row = {}
    for mark in item.iter_markers('parametrize'):
        names = mark.args[0]
        names = [name.strip() for name in names.split(',')] if isinstance(names, str) else names
        row['-'.join(names)] = tuple(id(params.pop(name)) for name in names)
    return row | {name: id(value) for name, value in params.items()}


def leave_to_full(items: Sequence[Any]) -> None:
    """Mark as ``full`` those of the collected tests marked ``covering(n)`` that an ordinary run need not take.

    What is skipped or full anyway takes no other's place.
    """
    tests: dict[tuple, list] = {}
    for item in items:
        mark = item.get_closest_marker('covering')
        skipped = any(skip.args[0] for skip in item.iter_markers('skipif')) or item.get_closest_marker('full')
        if mark and not skipped:
            tests.setdefault((item.parent.nodeid, item.originalname, *mark.args), []).append(item)
    for (*_, strength), cases in tests.items():
        chosen = cover([_row(case) for case in cases], strength)
        for i in {*range(len(cases))} - {*chosen}:
            cases[i].add_marker('full')
