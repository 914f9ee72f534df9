"""What an ordinary run takes of a test's combinations, and what it leaves to ``make test-all``."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest
from covering import cover, leave_to_full


@pytest.mark.parametrize('strength', [1, 2, 3])
def test_every_combination_of_so_many_values_is_met(strength):
    rows = [dict(zip('abcd', values, strict=True)) for values in product(range(2), range(5), range(3), range(4))]
    rows = [row for row in rows if row['a'] or row['b'] != 3]  # a combination that is not there is not asked for
    chosen = [rows[i] for i in cover(rows, strength)]
    for names in combinations('abcd', strength):
        values = {tuple(row[name] for name in names) for row in rows}
        assert {tuple(row[name] for name in names) for row in chosen} == values
    assert len(chosen) < len(rows) / 2 ** (3 - strength)


def test_tests_of_fewer_parameters_lose_none():
    rows = [{'a': a, 'b': b} for a, b in product(range(4), range(3))]
    assert cover(rows, 2) == list(range(12))


class Item:
    """A collected test: what pytest calls ``Function``."""

    def __init__(self, name, covering=2, skipped=False, together=(), **params):
        self.originalname, self.parent = name, SimpleNamespace(nodeid='test_file.py')
        self.callspec, self.marks = SimpleNamespace(params=params), {}
        self.given = pytest.mark.covering(covering).mark if covering else None
        self.own = {
            'skipif': [pytest.mark.skipif(skipped, reason='not here').mark],
            'parametrize': [pytest.mark.parametrize(names, []).mark for names in together],
        }

    def get_closest_marker(self, name):
        return self.given if name == 'covering' else self.marks.get(name)

    def iter_markers(self, name):
        return self.own[name]

    def add_marker(self, name):
        self.marks[name] = True


def test_the_rest_is_left_to_full():
    """Each test by itself; what is not marked stays, and what is skipped or full takes nobody's place."""
    values = list(product((0, 1), (0, 1), (0, 1)))
    marked = [Item('marked', a=a, b=b, c=c) for a, b, c in values]
    once = [Item('once', covering=1, a=a, b=b) for a, b, _ in values[::2]]
    plain = [Item('plain', covering=0, a=a, b=b) for a, b, _ in values]
    skipped = [Item('marked', skipped=True, a=a, b=b, c=2) for a, b, _ in values]
    whole = [Item('marked', a=a, b=b, c=3) for a, b, _ in values]
    for item in whole:
        item.add_marker('full')
    leave_to_full([*skipped, *whole, *marked, *once, *plain])
    left = [[test for test in tests if test.marks] for tests in (marked, once, plain, skipped)]
    assert [len(tests) for tests in left] == [4, 2, 0, 0]
    assert all(test.marks == {'full': True} for tests in left for test in tests)


@pytest.mark.parametrize('names', ['a, b', ('a', 'b')])
def test_values_that_come_together_are_one(names):
    values = [(a, b, c) for a, b in ((0, 0), (0, 1), (1, 1)) for c in range(5)]
    items = [Item('test', covering=1, together=[names], a=a, b=b, c=c) for a, b, c in values]
    leave_to_full(items)
    left = [values[i] for i, item in enumerate(items) if not item.marks]
    assert {value[:2] for value in left} == {(0, 0), (0, 1), (1, 1)} and {c for *_, c in left} == set(range(5))
    assert len(left) == 5
