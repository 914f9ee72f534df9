"""The short convolution with SiLU by its definition, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_silu_reference(x: Tensor, weight: Tensor, bias: Tensor | None, left: Sequence[int]) -> Tensor:
    """Return ``silu(bias[k, d] + sum over i of weight[k, d, i] * x[b, t + i - left[k], d])``, x zero outside.

    Args:
        x: Tokens (B, L, D).
        weight: Filters (K, D, I).
        bias: (K, D) or None.
        left: Of each filter, the number of past tokens that it sees.

    Returns:
        (B, K, L, D) in the dtype that x and weight promote to.
    """
    length, taps = x.shape[1], weight.shape[-1]
    outputs = []
    for k, past in enumerate(left):
        padded = F.pad(x, (0, 0, past, taps - 1 - past))  # (B, L + I - 1, D)
        y = torch.stack([padded[:, i : i + length] * weight[k, :, i] for i in range(taps)]).sum(0)  # (B, L, D)
        outputs.append(F.silu(y if bias is None else y + bias[k]))
    return torch.stack(outputs, dim=1)
