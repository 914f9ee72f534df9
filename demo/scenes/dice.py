"""Random choices that are the same on every machine."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar('T')
Range = tuple[float, float]


class Dice:
    """Draws from a seeded generator, with arithmetic done in Python so that no compiler can fuse it.

    Args:
        key: Non-negative integers; equal keys give equal draws.
    """

    def __init__(self, key: Sequence[int]) -> None:
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(self.generator.random())

    def near(self, value: float, share: float) -> float:
        """Uniform within ``value`` plus or minus that share of it."""
        return value * self.between(1 - share, 1 + share)

    def count(self, low: int, high: int) -> int:
        """Integer from low to high, both included."""
        return int(self.generator.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return float(self.generator.random()) < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.generator.integers(len(options)))]

    def sign(self) -> int:
        """-1 or 1."""
        return self.pick((-1, 1))

    def colour(self, base: tuple[float, float, float], spread: float = 0.08) -> tuple[float, float, float]:
        """A colour near the given one: brightness and each channel vary by the spread."""
        shift = self.between(-spread, spread)
        return tuple(min(max(c + shift + self.between(-spread, spread) * 0.4, 0.02), 0.98) for c in base)
