"""Which of a test's parameters' combinations an ordinary run takes: as few as have every two values together.

A test of five parameters is run hundreds of times if every combination is. Faults that take three values at once are rare
beside those that take one or two, and such a test marked ``covering(2)`` still meets every pair of values. The others are
marked ``full``: ``make test-all`` runs them.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def cover(rows: Sequence[Mapping[str, int]], strength: int) -> list[int]:
    """Choose rows, greedily, that have each combination of ``strength`` values that any row has.

    Args:
        rows: The number of each parameter's value, by the parameter's name.
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


def leave_to_full(items: Sequence[Any]) -> None:
    """Mark as ``full`` those of the collected tests marked ``covering(n)`` that an ordinary run need not take.

    What is skipped anyway takes no other's place.
    """
    tests: dict[tuple, list] = {}
    for item in items:
        mark = item.get_closest_marker('covering')
        skipped = any(skip.args[0] for skip in item.iter_markers('skipif'))
        if mark and not skipped:
            tests.setdefault((item.parent.nodeid, item.originalname, *mark.args), []).append(item)
    for (*_, strength), cases in tests.items():
        # one value is one object, whichever combination it is in
        chosen = cover([{name: id(x) for name, x in case.callspec.params.items()} for case in cases], strength)
        for i in {*range(len(cases))} - {*chosen}:
            cases[i].add_marker('full')
