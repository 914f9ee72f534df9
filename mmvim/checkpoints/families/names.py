"""What a family reads off the names and shapes in a file."""

import re

from torch import Tensor

from mmvim.checkpoints.report import Report


def shape_of(own: dict[str, Tensor], pattern: str, axes: int) -> tuple[int, ...]:
    """Return the shape of the first tensor whose name matches; zeros if none does or it has another number of axes."""
    shape = next((tuple(tensor.shape) for name, tensor in own.items() if re.fullmatch(pattern, name)), ())
    return shape if len(shape) == axes else (0,) * axes


def count(own: dict[str, Tensor], pattern: str) -> int:
    """Return one more than the largest number that ``pattern``'s group finds in the names, or 0 if it finds none."""
    numbers = [int(match[1]) for match in map(re.compile(pattern).match, own) if match]
    return max(numbers, default=-1) + 1


def drop(own: dict[str, Tensor], report: Report, start: str | tuple[str, ...], reason: str) -> None:
    """Drop the tensors whose names begin with ``start``, and record the reason in the report."""
    for name in [name for name in own if name.startswith(start)]:
        del own[name]
        report.dropped[name] = reason


def ratio(wide: int, narrow: int) -> float:
    """Return how many times as wide something is: an int if it is whole, and 0 of 0."""
    quotient = wide / max(narrow, 1)
    return int(quotient) if quotient == int(quotient) else quotient
