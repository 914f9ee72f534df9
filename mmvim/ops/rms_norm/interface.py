"""Root-mean-square norm (Zhang and Sennrich, https://arxiv.org/abs/1910.07467), with the residual add before it."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvim.ops.rms_norm.reference import add_rms_norm_reference
from mmvim.ops.rms_norm.triton import MAX_CHANNELS
from mmvim.ops.triton_host.device import on_triton


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Add, and normalise the sum.

    Args:
        x: (..., C), any floating dtype.
        residual: The stream that `x` is added to, (..., C), or None. Defaults to None.
        weight: (C,).
        eps: Added to the mean square. Defaults to 1e-5.

    Returns:
        ``s / sqrt(mean(s^2) + eps) * weight`` and ``s = residual + x``, which has the dtype that the two promote to.
        The first is computed in float32 (float64 for such inputs) and has the dtype of `weight`; under autocast on a
        GPU that of autocast, which its consumers would round it to.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if weight.shape != x.shape[-1:] or (residual is not None and residual.shape != x.shape):
        raise ValueError(
            f'x and residual must have one shape (..., C) and weight (C,); got {tuple(x.shape)}, '
            f'{None if residual is None else tuple(residual.shape)} and {tuple(weight.shape)}'
        )
    wide = torch.float64 in (x.dtype, weight.dtype, x.dtype if residual is None else residual.dtype)
    if not on_triton(x) or wide or x.numel() == 0 or x.shape[-1] > MAX_CHANNELS:
        return add_rms_norm_reference(x, residual, weight, eps)
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if kind != 'cpu' and torch.is_autocast_enabled(kind) else weight.dtype
    y, total, _ = torch.ops.mmvim.rms_norm_fwd(x, residual, weight, eps, dtype)
    return y, x if residual is None else total
