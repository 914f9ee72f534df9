"""Conditions on sizes, which a trace may not know."""

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def known_true(condition: bool | torch.SymBool | Tensor) -> bool:
    """Return whether a condition on sizes is known to hold, without making a condition of a graph out of it.

    Args:
        condition: Of numbers a bool, of symbolic sizes a SymBool. Sizes in ``torch.jit.trace``, by which MMEngine
            counts FLOPs, are tensors, and so is what is compared with them; such a trace is of one size anyway.

    Examples:
        >>> known_true(3 == 3), known_true(torch.tensor(3) == 4)
        (True, False)
    """
    return bool(condition) if isinstance(condition, Tensor) else statically_known_true(condition)
