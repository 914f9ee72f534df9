"""Root-mean-square norm (Zhang and Sennrich, https://arxiv.org/abs/1910.07467), with the residual add before it."""

from __future__ import annotations

from torch import Tensor

from mmvim.ops.backends import Backend, Backends
from mmvim.ops.rms_norm.reference import add_rms_norm_reference
from mmvim.ops.rms_norm.triton import add_rms_norm_triton, can_run
from mmvim.ops.triton_host import device

# On CPUs PyTorch's own norm serves, which its compiler can fuse with what stands around it.
BACKENDS = Backends('RMS norm')
BACKENDS.register('torch', Backend(add_rms_norm_reference, lambda: (True, 'plain PyTorch, any device')))
BACKENDS.register('triton', Backend(add_rms_norm_triton, device.available, device.default_for, device.why_not, can_run))
BACKENDS.register('reference', Backend(add_rms_norm_reference, lambda: (True, 'the definition, any device')))


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float = 1e-5, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Add, and normalise the sum.

    Args:
        x: (..., C), any floating dtype.
        residual: The stream that ``x`` is added to, (..., C), or None.
        weight: (C,).
        eps: Added to the mean square. Defaults to 1e-5.
        backend: As of :func:`mmvim.ops.selective_scan`. Defaults to None, the fastest there is.

    Returns:
        ``s / sqrt(mean(s^2) + eps) * weight`` and ``s = residual + x``, which has the dtype that the two promote to.
        The first is computed in float32 (float64 for such inputs) and has the dtype of ``weight``; under autocast on a
        GPU that of autocast, which its consumers would round it to.

    Raises:
        ValueError: If the shapes do not fit, or the backend is unknown or cannot run here.

    Examples:
        >>> import torch
        >>> from mmvim.ops.rms_norm import add_rms_norm
        >>> y, total = add_rms_norm(torch.full((1, 4), 2.0), torch.ones(1, 4), torch.ones(4))
        >>> y.round(decimals=4), total
        (tensor([[1., 1., 1., 1.]]), tensor([[3., 3., 3., 3.]]))
    """
    if weight.shape != x.shape[-1:] or (residual is not None and residual.shape != x.shape):
        raise ValueError(
            f'x and residual must have one shape (..., C) and weight (C,); got {tuple(x.shape)}, '
            f'{None if residual is None else tuple(residual.shape)} and {tuple(weight.shape)}'
        )
    name = BACKENDS.select(backend, x.device.type, x, residual, weight)
    return BACKENDS[name].implementation(x, residual, weight, eps)


def fuses_add(x: Tensor) -> bool:
    """Return whether the residual add costs nothing beside the norm where ``x`` is: in Triton, on a GPU.

    Examples:
        >>> import torch
        >>> from mmvim.ops.rms_norm import fuses_add
        >>> fuses_add(torch.zeros(1, 4))
        False
    """
    return BACKENDS.select(None, x.device.type) == 'triton'
