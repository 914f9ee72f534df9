"""How properties of the operators are tested: on examples that hypothesis chooses, the same ones in every run.

Hypothesis chooses shapes, options and a seed; the numbers follow from the seed.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import randn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmvim.ops.triton_host.device import interpreting

# An ordinary run takes a few examples, `make test-all` many.
EXAMPLES = pytest.mark.parametrize('examples', [6, pytest.param(200, marks=pytest.mark.full)], ids=['few', 'many'])
LONGEST = 6 if interpreting() else 90  # an interpreted step takes milliseconds
SEEDS = st.integers(0, 2**16)
# What float32 rounds in sums of a hundred numbers, relative to the largest of them.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5}


def hold(examples: int, **strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], None]:
    """Call the decorated function with so many examples, and then with the simplest that fails."""
    options = settings(max_examples=examples, derandomize=True, database=None, deadline=None)
    return lambda check: options(given(**strategies)(check))()


def numbers(seed: int, dtype: torch.dtype, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Normal numbers by name; each tensor its own."""
    return {name: randn(*shape, seed=seed + 101 * i).to(dtype) for i, (name, shape) in enumerate(shapes.items())}


def assert_close(got: Tensor, expected: Tensor, size: float = 1.0) -> None:
    """Hold two results to what the dtype rounds, relative to the largest value or, if more, to ``size``."""
    assert got.shape == expected.shape
    if expected.numel():
        largest = max(expected.abs().max().item(), size)
        torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=TOLERANCES[got.dtype] * largest)


def gradients(outputs: tuple[Tensor, ...], leaves: list[Tensor], seed: int = 7) -> list[Tensor]:
    """The gradients of a sum of all outputs with random weights."""
    weights = [randn(*x.shape, seed=seed + i).to(x.dtype) for i, x in enumerate(outputs)]
    return list(torch.autograd.grad(sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)), leaves))


def pieces_of(length: int, fractions: list[float]) -> list[slice]:
    """A sequence cut at some places; pieces may be empty."""
    cuts = [0, *sorted(round(f * length) for f in fractions), length]
    return [slice(start, end) for start, end in pairwise(cuts)]


FRACTIONS: Any = st.lists(st.floats(0, 1), max_size=4)
