"""x[t] += a[t] * x[t-1] over one chunk in few operations, by pairs of pairs of steps (Blelloch's tree).

Blelloch, Prefix sums and their applications, 1990, Sect. 1.4, for linear recurrences. A step after the other is one
operation each, and where a step has few values the time goes into starting them; two levels of the tree replace half
of the steps by six operations.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

# Values of a step from which on it is no longer worth joining steps, and the least steps to join where it has few.
_WIDE, _LEAST = 4096, 6


class TreeScan:
    """A planned scan; :meth:`run` takes the buffers' values of the moment.

    Args:
        x: (b, T, G, C), replaced by its scan.
        a: (b, T, G, C).
        before: What stands for x[-1], (b, G, C).
        descending: Take the steps from T-1 to 0.
        products: Room for (b, T // 2, G, C), or None to let the products of a replace parts of it.
    """

    def __init__(self, x: Tensor, a: Tensor, before: Tensor, descending: bool, products: Tensor | None = None) -> None:
        first = -1 if descending else 0
        self.last = x[:, -1 - first]
        self._first = x[:, first], a[:, first], before
        self._up: list[tuple[Tensor, ...]] = []
        self._down: list[tuple[Tensor, ...]] = []
        self._plan(x, a, descending, products)

    def run(self) -> None:
        x, a, before = self._first
        x.addcmul_(a, before)
        for x, a, before, a_before, product in self._up:
            x.addcmul_(a, before)
            torch.mul(a, a_before, out=product)
        for x, a, before in self._down:
            x.addcmul_(a, before)

    def _plan(self, x: Tensor, a: Tensor, descending: bool, products: Tensor | None) -> None:
        steps = x.shape[1]
        wide = x[:, 0].numel()
        if steps * (_WIDE - wide) <= _LEAST * _WIDE:
            xs, factors = x.unbind(1), a.unbind(1)
            order = range(steps - 1, -1, -1) if descending else range(steps)
            self._down += [(xs[t], factors[t], xs[before]) for before, t in pairwise(order)]
            return

        def every_second(tensor: Tensor, first: int, count: int) -> Tensor:
            return tensor[:, first : first + 2 * count - 1 : 2]

        # The second of each pair takes in the first, and these go on as a scan of half the steps.
        pairs = steps // 2
        second, first = (steps % 2, steps % 2 + 1) if descending else (1, 0)
        x_second, a_second = every_second(x, second, pairs), every_second(a, second, pairs)
        product = a_second if products is None else products[:, :pairs]
        self._up.append((x_second, a_second, every_second(x, first, pairs), every_second(a, first, pairs), product))
        self._plan(x_second, product, descending, None)
        # The first of each later pair follows the second of the pair before.
        later = (steps - 1) // 2
        first, before = (steps - 1 - 2 * later, steps - 2 * later) if descending else (2, 1)
        self._down.append(tuple(every_second(*args, later) for args in ((x, first), (a, first), (x, before))))
