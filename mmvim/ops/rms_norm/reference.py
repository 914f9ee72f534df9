"""The norm by its definition, in plain PyTorch: also what runs where Triton does not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def add_rms_norm_reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Run :func:`mmvim.ops.rms_norm.add_rms_norm` in plain PyTorch.

    Examples:
        >>> add_rms_norm_reference(torch.full((1, 2), 3.0), None, torch.ones(2))[0].round(decimals=4)
        tensor([[1., 1.]])
    """
    total = x if residual is None else residual + x
    dtype = torch.promote_types(torch.promote_types(total.dtype, weight.dtype), torch.float32)
    return F.rms_norm(total.to(dtype), weight.shape, weight.to(dtype), eps).to(weight.dtype), total
